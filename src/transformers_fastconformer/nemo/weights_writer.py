"""
State dicts in PyTorch's zip format, written tensor by tensor: memory holds one tensor, and equal input gives equal
bytes.

`torch.save` wants all tensors in memory at once.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import IO, Any

import torch

from ..checkpoints.safetensors_writer import TensorEntry

# Names in the zip, as `torch.save` has them.
ROOT = "archive"
FORMAT_VERSION = b"3\n"
# Values begin at multiples of it, so that a file can be mapped.
ALIGNMENT_BYTES = 64
PADDING_TAG = 0x4246
LOCAL_HEADER_BYTES = 30
PADDING_HEADER_BYTES = 4
PICKLE_PROTOCOL = 2
# A zip has a date for each record; this is the earliest.
DATE = (1980, 1, 1, 0, 0, 0)

STORAGE_CLASSES: dict[torch.dtype, Any] = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}


class _Storage:
    """The place of a tensor's values in the zip, for the pickle."""

    def __init__(self, key: str, entry: TensorEntry) -> None:
        num_values = torch.Size(entry.shape).numel()
        self.reference = ("storage", STORAGE_CLASSES[entry.dtype], key, "cpu", num_values)


class _Tensor:
    """A tensor without its values, for the pickle."""

    def __init__(self, key: str, entry: TensorEntry) -> None:
        self._storage = _Storage(key, entry)
        self._shape = tuple(entry.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        strides = torch.empty(self._shape, dtype=torch.uint8, device="meta").stride()
        arguments: tuple[Any, ...] = (self._storage, 0, self._shape, tuple(strides), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class _StatePickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        """The reference to a storage; None for everything else."""
        return obj.reference if isinstance(obj, _Storage) else None


def write_state_dict(file: IO[bytes], entries: Sequence[TensorEntry], fetch: Callable[[str], torch.Tensor]) -> None:
    """
    Write tensors as `torch.save` writes a dictionary of them.

    Args:
        file: A file that can seek; the zip begins at its position 0.
        entries: Names, shapes and types, in the order to write.
        fetch: Gives a tensor by its name.

    Raises:
        ValueError: for a type without a name in this format, and for a tensor that is not what its entry says.
    """
    for entry in entries:
        if entry.dtype not in STORAGE_CLASSES:
            expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in STORAGE_CLASSES)
            raise ValueError(f"{entry.name}: dtype={entry.dtype} is not supported; expected one of {expected}.")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, file, "data.pkl", _pickle(entries))
        _write(archive, file, "byteorder", b"little")
        for index, entry in enumerate(entries):
            _write(archive, file, f"data/{index}", _bytes_of(fetch(entry.name), entry))
        _write(archive, file, "version", FORMAT_VERSION)


def _pickle(entries: Sequence[TensorEntry]) -> bytes:
    buffer = io.BytesIO()
    state = {entry.name: _Tensor(str(index), entry) for index, entry in enumerate(entries)}
    _StatePickler(buffer, PICKLE_PROTOCOL).dump(state)
    return buffer.getvalue()


def _bytes_of(tensor: torch.Tensor, entry: TensorEntry) -> memoryview:
    if tuple(tensor.shape) != tuple(entry.shape) or tensor.dtype != entry.dtype:
        raise ValueError(
            f"{entry.name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected {entry.dtype} of shape "
            f"{tuple(entry.shape)}."
        )
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write(archive: zipfile.ZipFile, file: IO[bytes], name: str, content: bytes | memoryview) -> None:
    record = zipfile.ZipInfo(f"{ROOT}/{name}", DATE)
    record.file_size = len(content)
    before = file.tell() + LOCAL_HEADER_BYTES + len(record.filename) + PADDING_HEADER_BYTES
    padding = -before % ALIGNMENT_BYTES
    record.extra = struct.pack("<HH", PADDING_TAG, padding) + bytes(padding)
    with archive.open(record, "w") as stream:
        stream.write(content)
