"""Tensors of folders and of models, read one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import build_model
from safetensors.torch import save_file

from transformers_fastconformer.checkpoints.safetensors_writer import TensorEntry
from transformers_fastconformer.checkpoints.stored_tensors import ModelTensors, StoredTensors, main_dtype, shard_names

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def test_one_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    stored = StoredTensors(tmp_path)
    assert stored.shapes == {"a.weight": (2, 3), "b": (4,)}
    assert stored.dtypes == {"a.weight": torch.float32, "b": torch.bfloat16}
    assert all(torch.equal(stored.read(name), tensor) for name, tensor in TENSORS.items())


def test_shards(tmp_path: Path) -> None:
    weight_map = {}
    for index, (name, tensor) in enumerate(TENSORS.items()):
        save_file({name: tensor}, tmp_path / f"{index}.safetensors")
        weight_map[name] = f"{index}.safetensors"
    index_path = tmp_path / "model.safetensors.index.json"
    index_path.write_text(json.dumps({"weight_map": weight_map}))
    assert shard_names(index_path) == ["0.safetensors", "1.safetensors"]
    stored = StoredTensors(tmp_path)
    assert all(torch.equal(stored.read(name), tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight_map": {"a": "../elsewhere.safetensors"}}, "elsewhere"),
        ({"weight_map": {"a": 3}}, "no 'weight_map' of tensors to file names found"),
        ({}, "no 'weight_map' of tensors to file names found"),
        ([], "found list; expected an object"),
    ],
)
def test_an_index_that_is_not_one(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        StoredTensors(tmp_path)


def test_files_that_are_not_there_or_not_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights found; expected model\.safetensors"):
        StoredTensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"model\.safetensors: .*expected a safetensors file"):
        StoredTensors(tmp_path)


def test_tensors_of_a_model() -> None:
    model = build_model("ctc")
    tensors = ModelTensors(model)
    assert tensors.shapes["ctc_head.bias"] == tuple(model.ctc_head.bias.shape)
    assert torch.equal(tensors.read("ctc_head.bias"), model.ctc_head.bias)
    assert not tensors.read("ctc_head.bias").requires_grad


def test_the_type_of_most_bytes() -> None:
    entries = [
        TensorEntry("a", (100,), torch.int64),
        TensorEntry("b", (10,), torch.float32),
        TensorEntry("c", (30,), torch.bfloat16),
    ]
    assert main_dtype(entries) == torch.bfloat16
    assert main_dtype(entries[:2]) == torch.float32
    assert main_dtype(entries[:1]) == torch.float32
