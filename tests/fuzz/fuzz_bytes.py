"""Damage to bytes of any format, and values that no reader expects."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from typing import Any

ODD_SIZES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 2**64 - 1)
ODD_NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 255, 3000, 65536, 10**6, 10**9, 2**31, 2**63, 2**64, 4 * 10**12, 10**40, 10**400),
    *(0.5, -0.5, 1e-300, 1e38, 1e300, math.inf, -math.inf, math.nan, True, False),
)
ODD_TEXTS = (
    "",
    " ",
    "x",
    "0",
    "nan",
    "None",
    "\x00",
    "\ud800",
    "é" * 50,
    "../../x",
    "/etc/passwd",
    "a" * 5000,
    "${x}",
)
ODD_BOXES: tuple[Any, ...] = ([], [0], ["x"], [None], [[]], {}, {"x": 1}, {"": None}, [1, "x", None], [{}], {"a": {}})


def odd_value(rng: random.Random) -> Any:
    """A value that stands for a number, a text, a list or a mapping, and is rarely what is expected."""
    return rng.choice(
        (None, rng.choice(ODD_NUMBERS), rng.choice(ODD_NUMBERS), rng.choice(ODD_TEXTS), rng.choice(ODD_BOXES))
    )


def flip_bits(rng: random.Random, data: bytes, end: int | None = None) -> bytes:
    """Flip one to eight bits, of the first `end` bytes if it is given."""
    changed = bytearray(data)
    size = min(len(changed), end or len(changed))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        if size:
            changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Cut the end off."""
    if not data:
        return data
    return data[: rng.choice((rng.randrange(len(data)), rng.randrange(min(len(data), 64)), len(data) - 1))]


def lose_a_part(rng: random.Random, data: bytes) -> bytes:
    """Take bytes out of the middle."""
    start = rng.randrange(max(len(data), 1))
    return data[:start] + data[start + rng.choice((1, 4, 17, 512, 1024)) :]


def splice(rng: random.Random, data: bytes) -> bytes:
    """Put bytes of one place over those of another."""
    size = rng.choice((1, 4, 64, 512, 4096))
    source, target = rng.randrange(max(len(data), 1)), rng.randrange(max(len(data), 1))
    piece = data[source : source + size]
    return data[:target] + piece + data[target + len(piece) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Put random bytes into the middle."""
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 3, 512, 5000))) + data[place:]


def blank(rng: random.Random, data: bytes) -> bytes:
    """Put zeros or ones over a part, as a hole in a download does."""
    start = rng.randrange(max(len(data), 1))
    size = min(rng.choice((1, 16, 512, 4096)), len(data) - start)
    return data[:start] + rng.choice((b"\x00", b"\xff")) * size + data[start + size :]


def lie_about_a_size(rng: random.Random, data: bytes, end: int | None = None) -> bytes:
    """Put an odd number of 2, 4 or 8 bytes somewhere into the first `end` bytes."""
    form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    width = struct.calcsize(form)
    size = min(len(data), end or len(data))
    if size < width:
        return data
    place = rng.randrange(size - width + 1)
    number = rng.choice(ODD_SIZES) & (256**width - 1)
    return data[:place] + struct.pack(form, number) + data[place + width :]


DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "bits": flip_bits,
    "cut": cut,
    "lost part": lose_a_part,
    "spliced": splice,
    "inserted": insert,
    "blanked": blank,
    "size lie": lie_about_a_size,
}


def damage(rng: random.Random, data: bytes) -> bytes:
    """Damage of any of these kinds that changes something, where there is something."""
    for _ in range(20):
        changed = DAMAGES[rng.choice(list(DAMAGES))](rng, data)
        if changed != data:
            return changed
    return data + b"\x00"


# Trees of values, as JSON and YAML have them


def list_paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values of a tree, its own left out. Of long lists the first three."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    paths = []
    for key, value in items:
        paths += [(*path, key), *list_paths(value, (*path, key))]
    return paths


def replace_at(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replace the value at a path."""
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def spoil_values(rng: random.Random, tree: Any) -> list[str]:
    """Replace one to three values of a tree in place; the names of their keys."""
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = list_paths(tree)
        if not paths:
            break
        path = rng.choice(paths)
        replace_at(tree, path, odd_value(rng))
        names += [str(key) for key in path if isinstance(key, str)]
    return names


def spoil_keys(rng: random.Random, tree: Any) -> list[str]:
    """Remove, rename, add or swap keys of a tree in place; their names."""
    maps = [tree] if isinstance(tree, dict) else []
    for path in list_paths(tree):
        value = tree
        for key in path:
            value = value[key]
        if isinstance(value, dict):
            maps.append(value)
    chosen = rng.choice([found for found in maps if found] or [{}])
    keys = list(chosen)
    if not keys:
        return []
    key = rng.choice(keys)
    names = [str(key)]
    how = rng.randrange(5)
    if how == 0:
        del chosen[key]
    elif how == 1:
        chosen[str(key).upper() + "_"] = chosen.pop(key)
        names.append(names[0].upper())
    elif how == 2:
        new = rng.choice(("x", "", "target", "_target_", "model", "\ud800x", "a" * 3000))
        chosen[new] = odd_value(rng)
        names.append(new[:20] or key)
    elif how == 3:
        other = rng.choice(keys)
        chosen[key], chosen[other] = chosen[other], chosen[key]
        names.append(str(other))
    else:
        chosen[key] = {"inner": chosen[key]}
        names.append("inner")
    return names
