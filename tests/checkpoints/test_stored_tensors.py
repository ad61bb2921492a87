"""Tensors of folders and of models, read one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import build_model
from safetensors.torch import save_file

from transformers_fastconformer.checkpoints.safetensors_writer import TensorEntry
from transformers_fastconformer.checkpoints.stored_tensors import (
    ModelTensors,
    StoredTensors,
    check_stored_weights,
    main_dtype,
    shard_names,
)

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
    with pytest.raises(ValueError, match=r"model\.safetensors has 8 bytes .*expected a safetensors file"):
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


def test_files_that_are_cut_off_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    assert check_stored_weights(tmp_path) == dict.fromkeys(TENSORS, path)
    content = path.read_bytes()
    for length in (0, 3, 8, 20, len(content) - 33, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors (is cut off: it has|has) \d+ bytes"):
            check_stored_weights(tmp_path)
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"it has {len(content) - 1} bytes, expected {len(content)}\. Copy"):
        StoredTensors(tmp_path)
    path.write_bytes(content + b"x")
    with pytest.raises(ValueError, match=rf"is damaged: it has {len(content) + 1} bytes, expected {len(content)}"):
        check_stored_weights(tmp_path)
    for header in (b"[]", b"[" * 5000, b'{"a": 3}', b'{"a": {"data_offsets": ["x", "y"]}}', b"\xff\xff"):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ValueError, match=r"model\.safetensors cannot be read: .*expected a safetensors file"):
            check_stored_weights(tmp_path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ValueError, match=r"model\.safetensors is a pointer of Git LFS"):
        check_stored_weights(tmp_path)


def test_an_index_names_every_tensor_and_every_shard(tmp_path: Path) -> None:
    for name, tensor in TENSORS.items():
        save_file({name: tensor}, tmp_path / f"{name}.safetensors")
    whole = {name: f"{name}.safetensors" for name in TENSORS}
    for weight_map, message in (
        (whole, None),
        ({**whole, "c": "b.safetensors"}, "tensor 'c' is said to be in b.safetensors, and is in None"),
        ({**whole, "b": "a.weight.safetensors"}, "tensor 'b' is said to be in a.weight.safetensors, and is in None"),
        ({**whole, "c": "c.safetensors"}, "there is no file 'c.safetensors'; expected all the shards"),
    ):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        if message is None:
            assert {name: path.name for name, path in check_stored_weights(tmp_path).items()} == whole
            continue
        with pytest.raises(ValueError, match=message):
            check_stored_weights(tmp_path)
    save_file(TENSORS, tmp_path / "b.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": whole}))
    with pytest.raises(ValueError, match=r"tensor 'a\.weight' is in a\.weight\.safetensors and in b\.safetensors"):
        check_stored_weights(tmp_path)
