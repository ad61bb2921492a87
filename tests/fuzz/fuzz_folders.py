"""Cases of folders that `from_pretrained` loads, in our form and in that of Transformers' own classes."""

from __future__ import annotations

import json
import random
import struct
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fuzz_archives as archives
from fuzz_bytes import ODD_NUMBERS, cut, damage, flip_bits, list_paths, odd_value, replace_at, spoil_keys, spoil_values
from fuzz_cases import Case, Room, rng_of

from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.inference.transcribe import transcribe
from transformers_fastconformer.interop.writing import export_to_transformers

KIND = "folder"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Written in Transformers' form too.
WRITTEN_AS_THEIRS = ("ctc, characters", "rnnt, bpe", "hybrid_tdt_ctc, bpe")

BASES: dict[str, dict[str, bytes]] = {}


def prepare() -> None:
    """Convert whole archives to folders in both forms."""
    if BASES:
        return
    archives.prepare()
    for base in archives.BASES:
        BASES[f"ours, {base.name}"] = base.files
        if base.name not in WRITTEN_AS_THEIRS:
            continue
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
            ours.mkdir()
            write_folder(ours, base.files)
            export_to_transformers(ours, theirs, head="ctc" if base.name.startswith("hybrid") else None)
            BASES[f"theirs, {base.name}"] = read_folder(theirs)


def read_folder(folder: Path) -> dict[str, bytes]:
    """All files by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by name."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


# Mutations: they change the files in place and give the names that errors may have.

Files = dict[str, bytes]


def to_json(tree: Any) -> bytes:
    """JSON with whatever Python's writer writes, NaN included."""
    return json.dumps(tree).encode()


def json_names(files: Files) -> list[str]:
    return [name for name in files if name.endswith(".json")]


def whole(rng: random.Random, files: Files) -> list[str]:
    """No damage."""
    return []


def values(name: str, rng: random.Random, files: Files) -> list[str]:
    """Other values in a JSON file."""
    name = name if name in files else rng.choice(json_names(files))
    tree = json.loads(files[name])
    names = spoil_values(rng, tree)
    files[name] = to_json(tree)
    return [name, *names]


def keys(name: str, rng: random.Random, files: Files) -> list[str]:
    """Other keys in a JSON file."""
    name = name if name in files else rng.choice(json_names(files))
    tree = json.loads(files[name])
    names = spoil_keys(rng, tree)
    files[name] = to_json(tree)
    return [name, *names]


def damaged(name: str, rng: random.Random, files: Files) -> list[str]:
    """Damage to the bytes of a file."""
    name = name if name in files else rng.choice(json_names(files))
    files[name] = damage(rng, files[name])
    return [name]


def odd_json(rng: random.Random, files: Files) -> list[str]:
    """JSON that is no mapping, or is hard to read."""
    name = rng.choice(json_names(files))
    files[name] = rng.choice(
        (
            b"",
            b"null",
            b"5",
            b"[]",
            b'"x"',
            b"{}",
            b"\xff\xfe",
            b"\xef\xbb\xbf" + files[name],
            b"[" * 100000,
            b'{"a":' * 5000,
            b'{"a": ' + b"9" * 5000 + b"}",
            b'{"a": 1e999}',
            files[name] * 2,
            files[name].decode().encode("utf-16"),
            b'{"model_type": "fastconformer_ctc"}',
            b'{"model_type": 5}',
            b'{"model_type": "bert"}',
            b'{"architectures": 5, "model_type": "fastconformer_tdt"}',
            b'{"auto_map": {"AutoConfig": "x--y.Z"}}',
        )
    )
    return [name]


def files_changed(rng: random.Random, files: Files) -> list[str]:
    """Files swapped, lost or emptied."""
    one, other = rng.sample(list(files), 2)
    how = rng.randrange(4)
    if how == 0:
        del files[one]
    elif how == 1:
        files[one] = b""
    elif how == 2:
        files[one], files[other] = files[other], files[one]
    else:
        files[one] = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 99999\n"
    return [one, other]


def weights_damaged(change: Callable[[random.Random, bytes], bytes], rng: random.Random, files: Files) -> list[str]:
    """Damage to the weights."""
    files[WEIGHTS] = change(rng, files[WEIGHTS])
    return [WEIGHTS]


def weights_header(rng: random.Random, files: Files) -> list[str]:
    """A header of the weights that lies."""
    data = files[WEIGHTS]
    (size,) = struct.unpack_from("<Q", data)
    header, content = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = rng.choice([name for name in header if name != "__metadata__"])
    how = rng.randrange(9)
    if how == 0:
        header[name]["shape"] = rng.choice(([], [0], [10**12], [-1], ["x"], None, [2**63, 2], [1] * 70))
    elif how == 1:
        header[name]["dtype"] = rng.choice(("F64", "I8", "BF16", "F8_E4M3", "x", None, 5, "C64", "U16"))
    elif how == 2:
        start, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = rng.choice(
            ([end, start], [start, end + 4], [0, 2**63], [-1, 5], [], None, ["x", 1])
        )
    elif how == 3:
        header[rng.choice(("", "\ud800", "x", f"{name}x"))] = header.pop(name)
    elif how == 4:
        del header[name]
    elif how == 5:
        header["__metadata__"] = odd_value(rng)
    elif how == 6:
        paths = list_paths(header)
        replace_at(header, rng.choice(paths), odd_value(rng))
    elif how == 7:
        header = rng.choice(([], 5, None, {}, "x"))
    text = to_json(header)
    length = len(text)
    if how == 8:
        length = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, length + 10**6, length - 1))
    files[WEIGHTS] = struct.pack("<Q", length) + text + content
    return [WEIGHTS, name]


def index(rng: random.Random, files: Files) -> list[str]:
    """An index of shards that lies."""
    data = files[WEIGHTS]
    (size,) = struct.unpack_from("<Q", data)
    names = [name for name in json.loads(data[8 : 8 + size]) if name != "__metadata__"]
    shard = rng.choice(("model-00001-of-00001.safetensors", "../x.safetensors", "/etc/passwd", "", "x.bin", CONFIG))
    tree: Any = {"metadata": {"total_size": rng.choice((1, -1, "x"))}, "weight_map": dict.fromkeys(names, shard)}
    if rng.random() < 0.4:
        tree = rng.choice((5, [], {}, {"weight_map": 5}, {"weight_map": {"x": 5}}, {"weight_map": []}))
    files["model.safetensors.index.json"] = to_json(tree)
    if rng.random() < 0.7:
        files["model-00001-of-00001.safetensors"] = files.pop(WEIGHTS)
    return ["model.safetensors.index.json", "index", "shard", "model-00001", WEIGHTS]


def sizes(rng: random.Random, files: Files) -> list[str]:
    """Numbers of the configuration that a model of this size does not have."""
    tree = json.loads(files[CONFIG])
    paths = [path for path in list_paths(tree) if path[-1] not in ("transformers_version",)]
    numbers = []
    for path in paths:
        value = tree
        for key in path:
            value = value[key]
        if isinstance(value, int | float):
            numbers.append(path)
    path = rng.choice(numbers)
    replace_at(tree, path, rng.choice([number for number in ODD_NUMBERS if number is not None]))
    files[CONFIG] = to_json(tree)
    return [CONFIG, *(str(key) for key in path if isinstance(key, str))]


MUTATIONS: dict[str, Callable[[random.Random, Files], list[str]]] = {
    "whole": whole,
    "config.json, values": partial(values, CONFIG),
    "config.json, sizes": sizes,
    "config.json, keys": partial(keys, CONFIG),
    "config.json, damaged": partial(damaged, CONFIG),
    "preprocessor, values": partial(values, "preprocessor_config.json"),
    "processor, values": partial(values, "processor_config.json"),
    "processor, keys": partial(keys, "processor_config.json"),
    "tokenizer.json, values": partial(values, "tokenizer.json"),
    "tokenizer.json, keys": partial(keys, "tokenizer.json"),
    "tokenizer.json, damaged": partial(damaged, "tokenizer.json"),
    "tokenizer config, values": partial(values, "tokenizer_config.json"),
    "generation config, values": partial(values, "generation_config.json"),
    "JSON, odd": odd_json,
    "files": files_changed,
    "weights, bits": partial(weights_damaged, partial(flip_bits, end=3000)),
    "weights, cut": partial(weights_damaged, cut),
    "weights, damaged": partial(weights_damaged, damage),
    "weights, header": weights_header,
    "weights, index": index,
}


def make_case(seed: int, room: Room) -> Case:
    """The case of a seed."""
    rng = rng_of(KIND, seed)
    mutation = list(MUTATIONS)[seed % len(MUTATIONS)]
    base = rng.choice(list(BASES))
    files = dict(BASES[base])
    names = MUTATIONS[mutation](rng, files)
    folder = room.input / "checkpoint"
    folder.mkdir()
    write_folder(folder, files)

    def load() -> None:
        transcribe(archives.CLIP, load_model(folder), timestamps=seed % 2 == 0)

    names = ["checkpoint", "weights", *(name for name in names if len(name) > 2)]
    return Case(KIND, seed, mutation, base, (load,), names, is_keyed=True)
