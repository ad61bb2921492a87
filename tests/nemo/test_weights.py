"""Weights read tensor by tensor: values, memory, and checksums that are compared once."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
import torch

from transformers_fastconformer.nemo import weight_records
from transformers_fastconformer.nemo import weights as weights_module
from transformers_fastconformer.nemo.weights import NemoWeights, TensorHeader


def save(path: Path, tensors: dict[str, torch.Tensor], legacy: bool = False) -> Path:
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(40, generator=generator)
    return {
        "lstm.first": flat[:16].view(4, 4),
        "plain": torch.rand(3, 5, generator=generator),
        "lstm.second": flat[16:].view(4, 6),
        "transposed": torch.rand(3, 5, generator=generator).t(),
        "half": torch.rand(7, generator=generator).half(),
        "brain": torch.rand(7, generator=generator).bfloat16(),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("max_bytes", [2**28, 64])
def test_values_are_those_of_pytorch(tmp_path, tensors, monkeypatch, legacy, max_bytes):
    monkeypatch.setattr(weights_module, "MAX_STORAGE_BYTES", max_bytes)
    path = save(tmp_path / "weights", tensors, legacy)
    with NemoWeights(path, path) as weights:
        assert weights.has_checksums is not legacy
        found = weights.read()
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), name
            assert weights.headers[name] == TensorHeader(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def test_every_checksum_is_compared_once(tmp_path, tensors, monkeypatch):
    path = save(tmp_path / "weights", tensors)
    checked: list[int] = []

    class CountingChecksum:
        @staticmethod
        def crc32(values, start=0):
            checked.append(len(values))
            return zlib.crc32(values, start)

    monkeypatch.setattr(weight_records, "zlib_ng", CountingChecksum)
    with NemoWeights(path, path) as weights:
        weights.read_tensor("lstm.first")
        weights.read_tensor("plain")
        weights.read_tensor("lstm.second")
        weights.check_rest()
        weights.check_rest()
    with weight_records.FilePart(path) as part:
        records = weight_records.read_zip_directory(part).values()
    assert sorted(checked) == sorted(record.num_bytes for record in records if record.num_bytes)


@pytest.mark.parametrize("max_bytes", [2**28, 64])
def test_damaged_values_are_named(tmp_path, tensors, monkeypatch, max_bytes):
    monkeypatch.setattr(weights_module, "MAX_STORAGE_BYTES", max_bytes)
    path = save(tmp_path / "weights", tensors)
    content = bytearray(path.read_bytes())
    content[content.index(tensors["lstm.second"].numpy().tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with NemoWeights(path, Path("my.nemo")) as weights:
        weights.read_tensor("plain")
        with pytest.raises(ValueError, match=r"my\.nemo: model_weights\.ckpt.* of tensor lstm\.first.*CRC-32"):
            weights.read_tensor("lstm.second")
    with (
        NemoWeights(path, Path("my.nemo")) as weights,
        pytest.raises(ValueError, match=r"my\.nemo: model_weights\.ckpt.* of tensor lstm\.first.*CRC-32"),
    ):
        weights.check_rest()


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path, tensors):
    path = save(tmp_path / "weights", tensors)
    with NemoWeights(path, path) as weights:
        path.write_bytes(path.read_bytes()[:900])
        with pytest.raises(ValueError, match="it is truncated: it ends before byte"):
            weights.read()


def test_only_the_part_of_a_file_is_read(tmp_path, tensors):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    path = tmp_path / "archive"
    path.write_bytes(b"x" * 513 + buffer.getvalue() + b"y" * 100)
    with NemoWeights(path, path, 513, len(buffer.getvalue())) as weights:
        assert torch.equal(weights.read_tensor("plain"), tensors["plain"])
    with pytest.raises(
        ValueError, match=r"model_weights\.ckpt cannot be read: .*expected a state dict of plain tensors"
    ):
        NemoWeights(path, path)
