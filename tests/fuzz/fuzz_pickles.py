"""Weights that are hostile or odd: pickles, zips and tensors that no training writes."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import subprocess
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from fuzz_bytes import ODD_SIZES, damage, flip_bits

CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
DEPTH = 50000


# Zips


def read_records(weights: bytes) -> dict[str, bytes]:
    """Records of a zip."""
    with zipfile.ZipFile(io.BytesIO(weights)) as file:
        return {name: file.read(name) for name in file.namelist()}


def write_records(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of records, with right checksums."""
    return write_zip({name: (content, method) for name, content in records.items()})


def write_zip(records: dict[str, tuple[bytes, int]]) -> bytes:
    """A zip of records with their methods, the same at any time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, (content, method) in records.items():
            file.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def replace_pickle(weights: bytes, content: bytes) -> bytes:
    """The zip with another `data.pkl`."""
    records = read_records(weights)
    return write_records({name: content if name.endswith("/data.pkl") else data for name, data in records.items()})


def deflate(rng: random.Random, weights: bytes) -> bytes:
    """Compress all records or one."""
    method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    records = read_records(weights)
    if rng.random() < 0.5:
        return write_records(records, method)
    chosen = rng.choice(list(records))
    return write_zip(
        {name: (content, method if name == chosen else zipfile.ZIP_STORED) for name, content in records.items()}
    )


def lie_in_directory(rng: random.Random, weights: bytes) -> bytes:
    """Change a field of the directory, of a local header or of the end record."""
    changed = bytearray(weights)
    mark, fields = rng.choice(
        (
            (CENTRAL, ((8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (28, "<H"), (30, "<H"), (42, "<I"))),
            (LOCAL, ((6, "<H"), (8, "<H"), (14, "<I"), (18, "<I"), (22, "<I"), (26, "<H"), (28, "<H"))),
            (END, ((8, "<H"), (10, "<H"), (12, "<I"), (16, "<I"), (20, "<H"))),
        )
    )
    places = [place for place in range(len(weights)) if weights.startswith(mark, place)]
    if not places:
        return flip_bits(rng, weights)
    place = rng.choice(places)
    offset, form = rng.choice(fields)
    width = struct.calcsize(form)
    old = struct.unpack_from(form, weights, place + offset)[0]
    new = rng.choice((old ^ 1, old + 1, old - 1, old * 2, 0, rng.choice(ODD_SIZES))) & (256**width - 1)
    struct.pack_into(form, changed, place + offset, new)
    return bytes(changed)


def swap_records(rng: random.Random, weights: bytes) -> bytes:
    """Swap, lose, double, empty, shorten or rename records; their checksums are right."""
    records = read_records(weights)
    names = list(records)
    one, other = rng.sample(names, 2)
    how = rng.randrange(6)
    if how == 0:
        del records[one]
    elif how == 1:
        records[one] = b""
    elif how == 2:
        records[one] = records[one][: len(records[one]) // 2]
    elif how == 3:
        records[f"{one}x"] = records.pop(one)
    elif how == 4:
        folder = names[0].split("/")[0]
        records = {name.replace(folder, rng.choice(("..", "", "a/b", "é")), 1): data for name, data in records.items()}
    else:
        records[one], records[other] = records[other], records[one]
    return write_records(records)


def repeat_bomb(num_bytes: int) -> bytes:
    """A raw deflate stream of that many zeros, made in no time."""
    piece = 2**24
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(piece)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return block * (num_bytes // piece) + compressor.flush()


def bomb_record(rng: random.Random, weights: bytes) -> bytes:
    """A `data.pkl` that is deflated from 3 GB of zeros, or from a pickle with a string as long."""
    stream = repeat_bomb(3 * 2**30)
    name = next(name for name in read_records(weights) if name.endswith("/data.pkl")).encode()
    sizes = (len(stream), rng.choice((3 * 2**30, 100)))
    local = struct.pack("<4s5H3I2H", LOCAL, 20, 0, 8, 0, 0, 0, *sizes, len(name), 0) + name
    central = struct.pack("<4s6H3I5H2I", CENTRAL, 20, 20, 0, 8, 0, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4s4H2IH", END, 0, 0, 1, 1, len(central), len(local) + len(stream), 0)
    return local + stream + central + end


# Pickles


class Calls:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


class Storage:
    """A storage as it stands in a `data.pkl`."""

    def __init__(self, *pid: Any) -> None:
        self.pid = pid


class StatePickler(pickle.Pickler):
    """Writes storages as PyTorch does, numbered in their order."""

    def __init__(self, file: io.BytesIO, protocol: int = 2) -> None:
        super().__init__(file, protocol)
        self.keys: dict[int, int] = {}
        self.storages: dict[str, Any] = {}

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Storage):
            return value.pid
        if not isinstance(value, torch.storage.TypedStorage):
            return None
        key = str(self.keys.setdefault(value._cdata, len(self.keys)))
        self.storages[key] = value
        return ("storage", getattr(torch, value.pickle_storage_type()), key, "cpu", value.size(), None)


def pickle_state(state: Any, protocol: int = 2) -> bytes:
    """A `data.pkl` of a state with storages."""
    buffer = io.BytesIO()
    StatePickler(buffer, protocol).dump(state)
    return buffer.getvalue()


def odd_storage(rng: random.Random) -> bytes:
    """A state whose tensor has an odd storage, shape, stride or offset."""
    kind = rng.choice((torch.FloatStorage, torch.HalfStorage, torch.LongStorage, torch.BoolStorage, dict, None, "x"))
    key = rng.choice(("0", "1", "../../x", "", 0, None, "999", "é"))
    device = rng.choice(("cpu", "cuda:0", "meta", "x", None))
    count = rng.choice((4, 0, -1, 2**31, 10**12, 2**70, "4", None))
    tag = rng.choice(("storage", "storage", "storage", "module", None))
    pid = rng.choice(((tag, kind, key, device, count), (tag, kind), (), ("storage",), 5))
    storage = Storage(*pid) if isinstance(pid, tuple) else Calls(list, ())
    size = rng.choice(((2, 2), (4,), (), (-1,), (2**40, 2**40), (10**12,), ("x",), 5, None, (2.5,)))
    stride = rng.choice(((2, 1), (1,), (), (0, 0), (0,), (-1,), (2**62, 1), None))
    offset = rng.choice((0, 1, -1, 10**12, 2**70, "x"))
    rest = rng.choice(((False, OrderedDict()), (True, None), (), (False, OrderedDict(), {"x": 1}, 3)))
    tensor = Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, *rest)
    name = rng.choice(("encoder.layers.0.norm_out.weight", "preprocessor.featurizer.fb", "x", "", 5))
    return pickle_state(OrderedDict({name: tensor}))


def code_pickle(rng: random.Random) -> bytes:
    """A pickle that makes a file in the working folder when something runs it."""
    target = Path("ran")
    command = f"touch {target}"
    calls = (
        Calls(os.system, command),
        Calls(eval, f"open({str(target)!r}, 'w')"),
        Calls(exec, f"open({str(target)!r}, 'w')"),
        Calls(subprocess.Popen, ["touch", str(target)]),
        Calls(open, str(target), "w"),
        Calls(getattr, Path, "touch"),
        Calls(torch.save, {}, str(target)),
        Calls(torch.load, str(target)),
        Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, command))),
        Calls(__import__, "os"),
        Calls(Path(target).touch),
        Calls(io.FileIO, str(target), "w"),
        Calls(OrderedDict, [(1, Calls(os.system, command))]),
    )
    chosen = rng.choice(calls)
    state = rng.choice((chosen, {"x": chosen}, {"encoder.x": torch.zeros(1), "y": chosen}, [chosen], {chosen: 1}))
    try:
        return pickle.dumps(state, rng.choice((0, 2, 4, 5)))
    except TypeError:  # what cannot be a key
        return pickle.dumps({"x": chosen}, 2)


def broken_pickle(rng: random.Random) -> bytes:
    """A pickle that ends early, nests without end, calls itself, or announces what is not there."""
    loop: list[Any] = []
    loop.append(loop)
    return rng.choice(
        (
            b"",
            b".",
            b"\x80\x02.",
            b"\x80\x02}",
            b"\x80\xff}.",
            b"\x80\x02N.",
            b"\x80\x02" + b"(" * DEPTH + b"t" * DEPTH + b".",
            b"\x80\x02" + b"]" + b"]a" * 3 + b".",
            b"]" * DEPTH + b"a" * (DEPTH - 1) + b".",
            b"\x80\x02}r\xff\xff\xff\x0f.",
            b"\x80\x02}r\xff\xff\xff\x7f.",
            b"\x80\x02h\xff.",
            b"\x80\x02j\xff\xff\xff\xff.",
            b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
            b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.",
            b"\x80\x04\x8e\x00\x00\x00\x00\x02\x00\x00\x00x.",
            b"\x80\x02X\xff\xff\xff\x7fx.",
            b"\x80\x02\x8b\xff\xff\xff\x7fx.",
            b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
            b"\x80\x02ccollections\nOrderedDict\n)Ru.",
            b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02tR.",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
            b"\x80\x02ctorch\nFloatStorage\n.",
            b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.",
            b"\x80\x02}(NNu.",
            b"\x80\x02Q.",
            b"\x80\x02K\x05Q.",
            b"(lp0\ng0\na.",
            b"I" + b"9" * 5000 + b"\n.",
            b"c\xff\xfe\nx\n.",
            pickle.dumps(loop, 2),
            pickle.dumps({"x": [1, 2.5, None, "é", b"x", {1}, (1,)]}, 2),
            pickle.dumps(10**5000, 2),
            pickle.dumps("x", 0),
        )
    )


# Tensors


def odd_tensor(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of a form that weights do not have."""
    one = tensor.detach().float().contiguous()
    flat = one.reshape(-1)
    makers: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: one.to_sparse(),
        lambda: one.to("meta"),
        lambda: torch.quantize_per_tensor(one, 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([flat, flat[:1]]),
        lambda: torch.complex(one, one).conj().imag,
        lambda: torch.complex(one, one),
        lambda: one.to(rng.choice((torch.int8, torch.uint8, torch.bool, torch.int64, torch.float64, torch.float16))),
        lambda: one.to(torch.float8_e4m3fn),
        lambda: torch.nn.Parameter(one),
        lambda: one.expand(2, *one.shape),
        lambda: flat[:1].expand(rng.choice((10**5, 10**9, 10**12))),
        lambda: flat[:1].expand(1, 10**5, 10**5),
        lambda: flat[:1].expand(one.shape),
        lambda: one[..., :0],
        lambda: flat[0],
        lambda: flat,
        lambda: one.unsqueeze(0),
        lambda: torch.full_like(one, float(rng.choice(("nan", "inf", "1e38")))),
        lambda: torch.zeros(0),
        lambda: torch.zeros((1,) * 60),
    )
    return rng.choice(makers)()


def save(state: Any, is_legacy: bool) -> bytes:
    """Weights as `torch.save` writes them."""
    if is_legacy:
        with suppress(RuntimeError, NotImplementedError, AttributeError):
            return save_legacy(state)
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not is_legacy)
    return buffer.getvalue()


def save_legacy(state: dict[str, torch.Tensor]) -> bytes:
    """
    Weights in PyTorch's older format.

    `torch.save` (2.13) numbers storages there by their addresses in memory, so that no two runs write the same.
    """
    buffer = io.BytesIO()
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    for part in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, system):
        pickle.dump(part, buffer, protocol=2)
    pickler = StatePickler(buffer, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # storages with types are deprecated, and are what this format has
        pickler.dump(state)
        pickle.dump(list(pickler.storages), buffer, protocol=2)
        for storage in pickler.storages.values():
            buffer.write(struct.pack("<q", storage.size()) + bytes(storage.untyped()))
    return buffer.getvalue()


def spoil_state(rng: random.Random, tensors: dict[Any, torch.Tensor]) -> list[str]:
    """Rename, lose, add, reshape or replace tensors, in place; their names."""
    name = rng.choice(list(tensors))
    how = rng.randrange(7)
    names = [name]
    if how == 0:
        del tensors[name]
    elif how == 1:
        new = rng.choice((f"{name}x", "", "\ud800", "a" * 5000, 5, None, f"encoder.layers.{10**9}.norm_out.weight"))
        tensors[new] = tensors.pop(name)
        names.append(str(new)[:20] or name)
    elif how == 2:
        for number in range(rng.choice((1, 3000))):
            tensors[f"encoder.layers.{number}.extra"] = torch.zeros(1)
        names.append("extra")
    elif how == 3:
        tensors[name] = tensors[name].reshape(-1)[:-1].clone()
    elif how == 4:
        tensors[name] = rng.choice((None, 5, "x", [1.0], {"x": torch.zeros(1)}))  # type: ignore[assignment]
    else:
        tensors[name] = odd_tensor(rng, tensors[name])
    return names


def spoil_pickle_of(rng: random.Random, weights: bytes) -> bytes:
    """Damage to the `data.pkl` itself, its checksum made right."""
    content = next(data for name, data in read_records(weights).items() if name.endswith("/data.pkl"))
    return replace_pickle(weights, damage(rng, content))
