"""Tensors of a checkpoint folder, read one by one."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from ..validation import reading
from .files import read_json, refuse_lfs_pointer
from .name_table import Shape
from .safetensors_writer import INDEX_FILE, SAFETENSORS_DTYPES, SINGLE_FILE, TensorEntry

# The limit of the safetensors library.
MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8

DTYPES = {name: dtype for dtype, name in SAFETENSORS_DTYPES.items()}


class TensorSource(Protocol):
    """Tensors by name, whose shapes and types are known before they are read."""

    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU."""


class StoredTensors:
    """
    Tensors of a checkpoint folder.

    Args:
        folder: Folder with `model.safetensors`, or its shards and their index.

    Raises:
        ValueError: for a folder without weights, and for weights that are damaged or not all there.
    """

    def __init__(self, folder: Path) -> None:
        self._path_of = check_stored_weights(folder)
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for path in dict.fromkeys(self._path_of.values()):
            with _opened(path) as stored:
                for key in stored.keys():  # noqa: SIM118
                    tensor = stored.get_slice(key)
                    self.shapes[key] = tuple(tensor.get_shape())
                    self.dtypes[key] = _dtype_of(tensor.get_dtype(), path, key)

    @property
    def paths(self) -> set[Path]:
        """The files that hold them."""
        return set(self._path_of.values())

    def read(self, name: str) -> torch.Tensor:
        """One tensor; the file is mapped only for this call, so that tensors read before leave memory."""
        with _opened(self._path_of[name]) as stored:
            return stored.get_tensor(name)


class ModelTensors:
    """Tensors of a model in memory."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._tensors = dict(model.state_dict())
        self.shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in self._tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU."""
        return self._tensors[name].detach().to("cpu")


def check_stored_weights(folder: Path) -> dict[str, Path]:
    """
    The file of each tensor of a checkpoint folder. Headers and lengths of the files are read, and nothing else.

    Raises:
        ValueError: for a folder without weights, a file that is cut off or damaged, and an index of shards that does
            not name their tensors.
    """
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file():
        return dict.fromkeys(read_tensor_names(folder / SINGLE_FILE), folder / SINGLE_FILE)
    if not index.is_file():
        raise ValueError(f"{folder}: no weights found; expected {SINGLE_FILE} or {INDEX_FILE}.")
    named = _read_index(index)
    found: dict[str, Path] = {}
    for name in sorted(set(named.values())):
        if not (folder / name).is_file():
            raise ValueError(f"{index}: there is no file {name!r}; expected all the shards that it names.")
        for tensor in read_tensor_names(folder / name):
            if tensor in found:
                raise ValueError(f"{folder}: tensor {tensor!r} is in {found[tensor].name} and in {name}.")
            found[tensor] = folder / name
    wrong = sorted(
        {tensor for tensor in named if tensor not in found or found[tensor].name != named[tensor]}
        | set(found) - set(named)
    )
    if wrong:
        raise ValueError(
            f"{index}: tensor {wrong[0]!r} is said to be in {named.get(wrong[0])}, and is in "
            f"{found[wrong[0]].name if wrong[0] in found else None}; expected an index of all tensors."
        )
    return found


def read_tensor_names(path: Path) -> list[str]:
    """
    Names of the tensors of a safetensors file, whose header is compared with its length.

    Raises:
        ValueError: for a file that is cut off or damaged; it tells how many bytes are there and how many are expected.
    """
    refuse_lfs_pointer(path)
    num_bytes = path.stat().st_size
    with reading(str(path), "a safetensors file"), open(path, "rb") as file:
        length = file.read(LENGTH_BYTES)
        (header_bytes,) = struct.unpack("<Q", length) if len(length) == LENGTH_BYTES else (0,)
        if not 2 <= header_bytes <= MAX_HEADER_BYTES:
            raise ValueError(
                f"{path} has {num_bytes} bytes and a header of {header_bytes}; expected a safetensors file."
            )
        start = LENGTH_BYTES + header_bytes
        if start > num_bytes:
            raise ValueError(f"{path} is cut off: it has {num_bytes} bytes, and its header alone {start}.")
        header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        expected = start + max(ends, default=0)
        if num_bytes != expected:
            what = "is cut off" if num_bytes < expected else "is damaged"
            raise ValueError(
                f"{path} {what}: it has {num_bytes} bytes, expected {expected}. Copy or download it again."
            )
        return list(header)


def _read_index(index: Path) -> dict[str, str]:
    """The shard of each tensor."""
    weight_map = read_json(index).get("weight_map")
    if not (isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())):
        raise ValueError(f"{index}: no 'weight_map' of tensors to file names found; expected the index of shards.")
    outside = [name for name in sorted(set(weight_map.values())) if Path(name).name != name]
    if outside:
        raise ValueError(f"{index}: {outside[0]!r} is not supported; expected names of files in that folder.")
    return weight_map


def shard_names(index: Path) -> list[str]:
    """
    The files that an index of shards names.

    Raises:
        ValueError: for a file that is not an index, and for a name that leads out of its folder.
    """
    return sorted(set(_read_index(index).values()))


def main_dtype(entries: Iterable[TensorEntry]) -> torch.dtype:
    """The type of most of the weights, counted in bytes."""
    num_bytes: Counter[torch.dtype] = Counter()
    for entry in entries:
        if entry.dtype.is_floating_point:
            num_bytes[entry.dtype] += entry.num_bytes
    return num_bytes.most_common(1)[0][0] if num_bytes else torch.float32


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with reading(str(path), "a safetensors file"), safe_open(str(path), framework="pt") as opened:
        yield opened


def _dtype_of(name: str, path: Path, tensor: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(
            f"{path}: tensor {tensor!r} of dtype={name!r} is not supported; expected one of {sorted(DTYPES)}."
        )
    return DTYPES[name]
