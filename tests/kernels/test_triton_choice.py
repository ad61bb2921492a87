"""Where kernels in Triton are taken, and that nothing asks for Triton where they are not."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from transformers_fastconformer.kernels import triton_choice
from transformers_fastconformer.kernels.triton_choice import SWITCH, takes_triton


def tensor_of(device: str) -> Any:
    """As much of a tensor as the choice looks at."""
    return SimpleNamespace(device=torch.device(device))


@pytest.fixture(autouse=True)
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch for CUDA, with Triton, and nothing said by the environment."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(triton_choice, "has_triton", lambda: True)
    monkeypatch.delenv(SWITCH, raising=False)


def test_taken_for_cuda_and_for_nothing_else() -> None:
    assert takes_triton(tensor_of("cuda:1"))
    assert not takes_triton(torch.zeros(2))
    assert not takes_triton(tensor_of("mps"))


@pytest.mark.parametrize(("value", "is_taken"), [("0", False), ("1", True)])
def test_the_switch(value: str, is_taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, value)
    assert takes_triton(tensor_of("cuda")) == is_taken


def test_other_values_of_the_switch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    with pytest.raises(ValueError, match=r"TRANSFORMERS_FASTCONFORMER_TRITON='off' is not supported; expected"):
        takes_triton(tensor_of("cuda"))


def test_not_taken_without_triton_or_on_another_makers_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_choice, "has_triton", lambda: False)
    assert not takes_triton(tensor_of("cuda"))
    monkeypatch.setattr(triton_choice, "has_triton", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not takes_triton(tensor_of("cuda"))


@pytest.mark.slow
def test_losses_on_a_cpu_need_no_triton() -> None:
    script = """
import sys
sys.modules["triton"] = None  # an import fails
import torch
from transformers_fastconformer.losses import JointNetwork, fused_tdt_loss
tensors = [torch.ones(*shape, requires_grad=True) for shape in ((1, 3, 2), (1, 2, 2), (6, 2), (6,))]
lengths = torch.tensor([3]), torch.tensor([1])
loss = fused_tdt_loss(JointNetwork(*tensors), torch.tensor([[1]]), *lengths, 3, [0, 1])
loss.backward()
assert torch.isfinite(loss) and not any("kernels.cuda" in name for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
