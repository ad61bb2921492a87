"""
The weights of an archive, read tensor by tensor where they lie, and checked against the checksums of their file.

No byte is unpickled by PyTorch: names, shapes and places are read by `state_dict_pickle` and `weight_records`, and the
values by place, so memory holds one storage and a file that is changed meanwhile is an error and not a signal.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from ..validation import reading
from .weight_records import FilePart, Record, check_record, compare_checksum, read_weight_file

WEIGHTS_MEMBER = "model_weights.ckpt"
EXPECTED = "a state dict of plain tensors, as torch.save writes it"
# A storage that several tensors share is kept for the next of them, unless it is larger and little of it is asked for.
MAX_STORAGE_BYTES = 256 * 2**20


class TensorHeader(NamedTuple):
    """Shape and type of a tensor, without its values."""

    shape: tuple[int, ...]
    dtype: str


class NemoWeights:
    """
    A state dict in a file, in PyTorch's zip format or its older one. Use it in a `with` statement.

    Every record of the zip is compared with its checksum once: when it is read first, or by [`check_rest`].

    Args:
        path: The file.
        source: The archive, for messages.
        start, num_bytes: The part of the file that holds the state dict; by default all of it.

    Raises:
        ValueError: for a file that is damaged, and for anything but a state dict of plain tensors.
    """

    def __init__(self, path: Path, source: Path, start: int = 0, num_bytes: int | None = None) -> None:
        self.path = path
        self.source = source
        self._name = f"{source}: {WEIGHTS_MEMBER}"
        self._part = FilePart(path, start, num_bytes)
        try:
            with reading(self._name, EXPECTED):
                self._file = read_weight_file(self._part)
        except BaseException:
            self.close()
            raise
        records = {**self._file.others, **self._file.storages}
        self._unchecked = {name: record for name, record in records.items() if record.checksum is not None}
        self._first_users = {tensor.storage.key: name for name, tensor in reversed(self._file.tensors.items())}
        self._kept: tuple[str, torch.Tensor] | None = None

    def close(self) -> None:
        self._part.close()

    def __enter__(self) -> NemoWeights:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def headers(self) -> dict[str, TensorHeader]:
        """Shapes and types of all tensors by name."""
        return {name: TensorHeader(tensor.shape, tensor.storage.dtype) for name, tensor in self._file.tensors.items()}

    @property
    def has_checksums(self) -> bool:
        """The file tells what its values are; the older format does not, and the zip only if it was asked to."""
        return all(record.checksum is not None for record in self._file.storages.values())

    def read(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        return {name: self.read_tensor(name) for name in self._file.tensors}

    def read_tensor(self, name: str) -> torch.Tensor:
        """
        One tensor. Tensors of one storage share memory.

        Raises:
            ValueError: for values that do not have their checksum.
        """
        tensor = self._file.tensors[name]
        dtype: torch.dtype = getattr(torch, tensor.storage.dtype)
        record = self._file.storages[tensor.storage.key]
        is_part = record.num_bytes > MAX_STORAGE_BYTES and 2 * tensor.span * dtype.itemsize < record.num_bytes
        with reading(self._name, EXPECTED):
            if is_part:
                self._check(tensor.storage.key)
                first = record.offset + tensor.offset * dtype.itemsize
                values = self._read_record(Record(first, tensor.span * dtype.itemsize, None))
            else:
                values = self._read_storage(tensor.storage.key)
            offset = 0 if is_part else tensor.offset
            return values.view(dtype).as_strided(tensor.shape, tensor.strides, offset)

    def check_rest(self) -> None:
        """Raise a `ValueError` unless what was not read has its checksums too."""
        for key in list(self._unchecked):
            with reading(self._name, EXPECTED):
                self._check(key)

    def _check(self, key: str) -> None:
        record = self._unchecked.pop(key, None)
        if record is not None:
            check_record(self._part, self._describe(key), record)

    def _describe(self, key: str) -> str:
        """A record as messages name it."""
        user = self._first_users.get(key)
        return key if user is None else f"data/{key} of tensor {user}"

    def _read_storage(self, key: str) -> torch.Tensor:
        """The bytes of a storage."""
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        self._kept = None  # first: two storages would be in memory
        record = self._unchecked.pop(key, None)
        if record is None:
            values = self._read_record(self._file.storages[key])
        else:
            values = _empty_bytes(record.num_bytes)
            compare_checksum(self._describe(key), self._part.read_and_sum(values.numpy().data, record.offset), record)
        self._kept = key, values
        return values

    def _read_record(self, record: Record) -> torch.Tensor:
        values = _empty_bytes(record.num_bytes)
        if record.num_bytes:
            self._part.read_into(values.numpy().data, record.offset)
        return values


def _empty_bytes(num_bytes: int) -> torch.Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8, device="cpu")
