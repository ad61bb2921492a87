"""
Write tensors to safetensors files one after another, so that memory holds one tensor and not a checkpoint.

`safetensors.torch.save_file` needs all tensors of a file at once. The format (a length, a JSON header, the bytes of
the tensors) needs only their names, types and shapes beforehand.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
SIZE_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

Fetch = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class TensorEntry:
    """Facts about a tensor that are known before its bytes are."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def parse_bytes(size: int | str) -> int:
    """A number of bytes from a number or from text such as `"5GB"` or `"200MiB"`."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    unit = match.group(2).upper() if match else None
    if match is None or unit not in SIZE_UNITS or float(match.group(1)) <= 0:
        raise ValueError(
            f"max_shard_size={size!r} is not supported; expected bytes, or text such as '5GB' or '200MB'."
        )
    return int(float(match.group(1)) * SIZE_UNITS[unit])


def split_into_shards(entries: list[TensorEntry], max_bytes: int) -> list[list[TensorEntry]]:
    """Split tensors in order into shards of at most `max_bytes`; a larger tensor has a shard of its own."""
    shards: list[list[TensorEntry]] = [[]]
    shard_bytes = 0
    for entry in entries:
        if shards[-1] and shard_bytes + entry.num_bytes > max_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(entry)
        shard_bytes += entry.num_bytes
    return shards


def write_checkpoint(folder: Path, entries: list[TensorEntry], fetch: Fetch, max_shard_bytes: int) -> list[str]:
    """
    Write `model.safetensors`, or shards and their index where one file would be larger than `max_shard_bytes`.

    Args:
        folder: Folder to write to.
        entries: The tensors.
        fetch: Gives a tensor by name, with the type and shape of its entry.
        max_shard_bytes: Largest number of bytes of tensors in a file.

    Returns:
        Names of the files.
    """
    shards = split_into_shards(entries, max_shard_bytes)
    if len(shards) == 1:
        write_safetensors(folder / SINGLE_FILE, shards[0], fetch)
        return [SINGLE_FILE]
    names = [f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard, fetch)
    index = {
        "metadata": {"total_size": sum(entry.num_bytes for entry in entries)},
        "weight_map": {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard},
    }
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [*names, INDEX_FILE]


def write_safetensors(path: Path, entries: list[TensorEntry], fetch: Fetch) -> None:
    """Write one file. Wider types come first, as in the format's own writer, so that every tensor is aligned."""
    header: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    position = 0
    for entry in ordered:
        if entry.dtype not in SAFETENSORS_DTYPES:
            raise ValueError(f"{entry.name} is of type {entry.dtype}; expected one of {list(SAFETENSORS_DTYPES)}.")
        end = position + entry.num_bytes
        header[entry.name] = {
            "dtype": SAFETENSORS_DTYPES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, end],
        }
        position = end
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for entry in ordered:
            tensor = fetch(entry.name)
            assert (tensor.dtype, tuple(tensor.shape)) == (entry.dtype, entry.shape), entry
            if tensor.numel():
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
