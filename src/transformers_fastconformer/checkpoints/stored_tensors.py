"""Tensors of a checkpoint folder, read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from .files import read_json
from .name_table import Shape
from .safetensors_writer import INDEX_FILE, SAFETENSORS_DTYPES, SINGLE_FILE, TensorEntry

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
        ValueError: for a folder without weights.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / INDEX_FILE
        if (folder / SINGLE_FILE).is_file():
            files = [SINGLE_FILE]
        elif index.is_file():
            files = shard_names(index)
        else:
            raise ValueError(f"{folder}: no weights found; expected {SINGLE_FILE} or {INDEX_FILE}.")
        self._path_of: dict[str, Path] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for name in files:
            path = folder / name
            with _opened(path) as stored:
                for key in stored.keys():  # noqa: SIM118
                    tensor = stored.get_slice(key)
                    self._path_of[key] = path
                    self.shapes[key] = tuple(tensor.get_shape())
                    self.dtypes[key] = _dtype_of(tensor.get_dtype())

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


def shard_names(index: Path) -> list[str]:
    """
    The files that an index of shards names.

    Raises:
        ValueError: for a file that is not an index, and for a name that leads out of its folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not (isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())):
        raise ValueError(f"{index}: no 'weight_map' of tensors to file names found; expected the index of shards.")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"{index}: {outside[0]!r} is not supported; expected names of files in that folder.")
    return names


def main_dtype(entries: Iterable[TensorEntry]) -> torch.dtype:
    """The type of most of the weights, counted in bytes."""
    num_bytes: Counter[torch.dtype] = Counter()
    for entry in entries:
        if entry.dtype.is_floating_point:
            num_bytes[entry.dtype] += entry.num_bytes
    return num_bytes.most_common(1)[0][0] if num_bytes else torch.float32


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        stored = safe_open(str(path), framework="pt")
    except Exception as error:
        raise ValueError(f"{path}: {error}; expected a safetensors file.") from error
    with stored as opened:
        yield opened


def _dtype_of(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} is not supported; expected one of {sorted(DTYPES)}.")
    return DTYPES[name]
