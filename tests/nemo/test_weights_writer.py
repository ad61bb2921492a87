"""State dicts written tensor by tensor: PyTorch reads them as its own, and equal input gives equal bytes."""

from __future__ import annotations

import io

import pytest
import torch

from transformers_fastconformer.checkpoints.safetensors_writer import TensorEntry
from transformers_fastconformer.nemo.weights_writer import ALIGNMENT_BYTES, STORAGE_CLASSES, write_state_dict


def entries_of(tensors: dict[str, torch.Tensor]) -> list[TensorEntry]:
    return [TensorEntry(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    found = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in STORAGE_CLASSES}
    return {**found, "scalar": torch.tensor(7), "empty": torch.zeros(0, 3), "turned": torch.rand(3, 5).t()}


def test_pytorch_reads_them(tensors: dict[str, torch.Tensor]) -> None:
    file = io.BytesIO()
    write_state_dict(file, entries_of(tensors), tensors.__getitem__)
    file.seek(0)
    found = torch.load(file, weights_only=True)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_equal_bytes_and_alignment(tensors: dict[str, torch.Tensor]) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    for file in (first, second):
        write_state_dict(file, entries_of(tensors), tensors.__getitem__)
    assert first.getvalue() == second.getvalue()
    marked = {"mark": torch.full((4,), 0x5EED, dtype=torch.int64)}
    write_state_dict(second := io.BytesIO(), entries_of(marked), marked.__getitem__)
    assert second.getvalue().index(marked["mark"].numpy().tobytes()) % ALIGNMENT_BYTES == 0


def test_refusals() -> None:
    tensors = {"a": torch.zeros(2, dtype=torch.complex64)}
    with pytest.raises(ValueError, match=r"a: dtype=torch.complex64 is not supported; expected one of float64"):
        write_state_dict(io.BytesIO(), entries_of(tensors), tensors.__getitem__)
    entry = TensorEntry("a", (3,), torch.float32)
    with pytest.raises(
        ValueError, match=r"a is torch.float32 of shape \(2,\); expected torch.float32 of shape \(3,\)"
    ):
        write_state_dict(io.BytesIO(), [entry], lambda name: torch.zeros(2))
