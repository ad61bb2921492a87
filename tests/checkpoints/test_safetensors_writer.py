"""Files of weights that are written tensor by tensor."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from transformers_fastconformer.checkpoints.safetensors_writer import (
    TensorEntry,
    parse_bytes,
    split_into_shards,
    write_checkpoint,
    write_safetensors,
)


def test_written_files_are_plain_safetensors(tmp_path):
    tensors = {
        "flag": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(7),
        "view": torch.arange(12.0).reshape(3, 4).t(),
        "half": torch.randn(3, dtype=torch.bfloat16),
    }
    entries = [TensorEntry(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]
    write_safetensors(tmp_path / "x.safetensors", entries, tensors.__getitem__)
    loaded = load_file(tmp_path / "x.safetensors")
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    with pytest.raises(ValueError, match=r"spectrum is of type torch\.complex64"):
        write_safetensors(tmp_path / "y", [TensorEntry("spectrum", (1,), torch.complex64)], tensors.__getitem__)


def test_shards_and_sizes():
    entries = [TensorEntry(str(index), (size,), torch.int8) for index, size in enumerate([3, 3, 9, 1, 1, 4])]
    assert [[entry.name for entry in shard] for shard in split_into_shards(entries, 6)] == [
        ["0", "1"],
        ["2"],
        ["3", "4", "5"],
    ]
    assert (parse_bytes(7), parse_bytes("5GB"), parse_bytes("1.5 KiB"), parse_bytes("12")) == (7, 5 * 10**9, 1536, 12)
    for size in (0, -1, "0MB", "five", "5 PB", True, None):
        with pytest.raises(ValueError, match=re.escape(f"max_shard_size={size!r} is not supported")):
            parse_bytes(size)


def test_shards_come_with_an_index(tmp_path):
    tensors = {name: torch.full((3,), float(index)) for index, name in enumerate("abc")}
    entries = [TensorEntry(name, (3,), torch.float32) for name in tensors]
    names = write_checkpoint(tmp_path, entries, tensors.__getitem__, 24)
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / names[-1]).read_text())
    assert index == {
        "metadata": {"total_size": 36},
        "weight_map": {"a": names[0], "b": names[0], "c": names[1]},
    }
    assert set(load_file(tmp_path / names[0])) == {"a", "b"}
    assert write_checkpoint(tmp_path, entries, tensors.__getitem__, 36) == ["model.safetensors"]
