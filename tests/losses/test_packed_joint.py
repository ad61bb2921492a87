"""Losses by the kernels for CUDA next to the plain form, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from joint_cases import DURATION_LISTS, Tensors, assert_near, fused, gradients, make_inputs
from triton_forms import DEVICE, IS_CUT_OFF, choose_triton, needs_triton

from transformers_fastconformer.losses import (
    JointForm,
    JointNetwork,
    fused_rnnt_loss,
    fused_tdt_loss,
    packed_joint,
)
from transformers_fastconformer.losses.packed_joint import pack_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

# A clip that fills the batch, one with padding, one without labels and one that only plain RNN-T has no place for.
FRAMES = torch.tensor([6, 4, 3, 0])
TARGETS = torch.tensor([2, 1, 0, 1])


def both_forms(
    monkeypatch: pytest.MonkeyPatch,
    durations: Sequence[int] | None,
    dtype: torch.dtype = torch.float64,
    forms: Sequence[bool] = (False, True),
    **options: Any,
) -> list[tuple[torch.Tensor, Tensors]]:
    """Losses and gradients by the plain form and by the kernels."""
    results = []
    for is_chosen in forms:
        choose_triton(monkeypatch, is_chosen)
        tensors, targets = make_inputs(durations, dtype, (4, 6, 2))
        targets[1, 1:] = targets[2] = targets[3, 1:] = -100
        moved = tuple(tensor.detach().to(DEVICE).requires_grad_() for tensor in tensors)
        arguments = (targets.to(DEVICE), durations, FRAMES.to(DEVICE), TARGETS.to(DEVICE))
        losses = fused(moved, *arguments, **options)
        results.append((losses.detach(), gradients(losses, moved) if losses.dim() else ()))
    return results


@needs_triton
@pytest.mark.parametrize("durations", DURATION_LISTS, ids=str)
def test_equals_the_plain_form(durations: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"fastemit_lambda": 0.2} | ({} if durations is None else {"sigma": 0.05})
    (expected, truths), (found, ours) = both_forms(monkeypatch, durations, **options)
    assert torch.isfinite(expected).sum() >= 2
    assert torch.isinf(expected[3])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_near(ours, truths, 1e-12)


@needs_triton
def test_slices_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end within frames and go on in the next clip."""
    monkeypatch.setattr(packed_joint, "count_rows", lambda network: 7)
    form = JointForm("tanh", 0.4, 3)
    (expected, truths), (found, ours) = both_forms(monkeypatch, [0, 2], clamp=0.1, form=form)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_near(ours, truths, 1e-12)


@needs_triton
@pytest.mark.parametrize("reduction", ["mean", "mean_volume"])
def test_reductions(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FRAMES", torch.tensor([6, 4, 3, 2]))
    (expected, _), (found, _) = both_forms(monkeypatch, [0, 1, 2], reduction=reduction)
    assert torch.isfinite(expected)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precision_is_that_of_the_plain_form(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    form = JointForm("relu", 0.3, 5)
    ((exact, truths),) = both_forms(monkeypatch, [0, 1, 2], forms=[False], form=form)
    (plain, theirs), (found, ours) = both_forms(monkeypatch, [0, 1, 2], dtype, form=form)
    assert found.dtype == plain.dtype == torch.float32
    is_cut_off = IS_CUT_OFF.get(dtype, False)
    torch.testing.assert_close(found, plain, rtol=2e-2 if is_cut_off else 1e-6, atol=0)
    for gradient, other, truth in zip(ours, theirs, truths, strict=True):
        assert gradient.dtype == dtype
        floor = 2 * torch.finfo(dtype).eps * truth.abs().mean()
        bound = max((3.0 if is_cut_off else 1.1) * (other - truth).abs().mean(), floor)
        assert (gradient - truth).abs().mean() <= bound
    assert torch.isfinite(exact[:3]).all()


@needs_triton
@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_only_the_gradients_that_are_wanted(wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for is_chosen in (False, True):
        choose_triton(monkeypatch, is_chosen)
        tensors, targets = make_inputs(None, shape=(1, 3, 1))
        lengths = torch.tensor([3], device=DEVICE), torch.tensor([1], device=DEVICE)
        some = tuple(
            tensor.detach().to(DEVICE).requires_grad_(place == wanted) for place, tensor in enumerate(tensors)
        )
        losses = fused(some, targets.to(DEVICE), None, *lengths)
        results.append(gradients(losses, (some[wanted],)))
    assert_near(results[1], results[0], 1e-12)


@needs_triton
def test_loss_scaling_does_not_overflow_sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of outputs are kept in 16 bits, in which a scale of 2**17 is infinite."""
    results = []
    for is_chosen in (False, True):
        choose_triton(monkeypatch, is_chosen)
        tensors, targets = make_inputs(None, torch.float16, (1, 3, 1))
        moved = tuple((tensor.detach() * 0.01).to(DEVICE).requires_grad_() for tensor in tensors)
        lengths = torch.tensor([3], device=DEVICE), torch.tensor([1], device=DEVICE)
        loss = fused(moved, targets.to(DEVICE), None, *lengths)
        results.append(torch.autograd.grad(loss.sum() * 2.0**17, moved[:2]))
    for ours, plain in zip(results[1], results[0], strict=True):
        assert torch.isfinite(plain).all()
        torch.testing.assert_close(ours, plain, rtol=1e-2, atol=1e-2 * float(plain.abs().max()))


def test_an_empty_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    choose_triton(monkeypatch, True)
    tensors, targets = make_inputs(None)
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    tensors = tuple(tensor.detach().to(DEVICE).requires_grad_() for tensor in tensors)
    losses = fused((tensors[0][:0], tensors[1][:0], *tensors[2:]), targets[:0].to(DEVICE), None, none, none)
    assert losses.shape == (0,)
    assert float(torch.autograd.grad(losses.sum(), tensors[2])[0].abs().sum()) == 0.0


def test_rows_are_packed_in_rising_order() -> None:
    is_row = torch.tensor([[False, True, True], [False, False, True]])
    rows, rows_before = pack_rows(is_row, 3)
    assert rows.tolist() == [1, 2, 5]
    assert rows_before.tolist() == [0, 0, 1, 2, 2, 2, 3]
    rows, rows_before = pack_rows(torch.zeros(2, 0, dtype=torch.bool), 0)
    assert rows.tolist() == []
    assert rows_before.tolist() == [0]


def time_and_peak(
    monkeypatch: pytest.MonkeyPatch, is_chosen: bool, durations: list[int] | None, vocabulary: int, dtype: torch.dtype
) -> tuple[torch.Tensor, Tensors, float, int]:
    """Losses, gradients, milliseconds and bytes above the inputs of one step of 4 clips on a GPU."""
    choose_triton(monkeypatch, is_chosen)
    generator = torch.Generator().manual_seed(0)
    outputs = vocabulary + 1 + len(durations or [])
    shapes = (4, 250, 640), (4, 61, 640), (outputs, 640), (outputs,)
    scales = 1.0, 1.0, 640**-0.5, 1.0
    tensors = tuple(
        (torch.randn(*shape, generator=generator) * scale).to("cuda", dtype).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    )
    targets = torch.randint(0, vocabulary, (4, 60), generator=generator).cuda()
    lengths = torch.tensor([250, 200, 250, 100]).cuda(), torch.tensor([60, 60, 30, 45]).cuda()

    def step() -> tuple[torch.Tensor, Tensors]:
        network = JointNetwork(*tensors)
        if durations is None:
            losses = fused_rnnt_loss(network, targets, *lengths, vocabulary, "none")
        else:
            losses = fused_tdt_loss(network, targets, *lengths, vocabulary, durations, 0.02, reduction="none")
        return losses, torch.autograd.grad(losses.sum(), tensors)

    step()  # kernels are compiled
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    losses, found = step()
    end.record()
    torch.cuda.synchronize()
    return losses.detach(), found, start.elapsed_time(end), torch.cuda.max_memory_allocated() - before


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocabulary", [1024, 8192])
@pytest.mark.parametrize("durations", [None, [0, 1, 2, 3, 4]], ids=str)
def test_equality_memory_and_speed_on_a_gpu(
    durations: list[int] | None, vocabulary: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = durations, vocabulary, dtype
    expected, truths, plain_ms, plain_bytes = time_and_peak(monkeypatch, False, *arguments)
    found, ours, milliseconds, peak_bytes = time_and_peak(monkeypatch, True, *arguments)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert_near(ours, truths, 1e-5 if dtype == torch.float32 else 2e-2)
    assert milliseconds < plain_ms
    assert peak_bytes < 1.25 * plain_bytes


@pytest.mark.gpu
def test_a_step_waits_for_the_device_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the lengths, and once for how many nodes the backward pass visits."""
    time_and_peak(monkeypatch, True, [0, 1, 2], 128, torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tensors, targets = make_inputs([0, 1, 2], torch.float32, (4, 6, 2))
        moved = tuple(tensor.detach().cuda().requires_grad_() for tensor in tensors)
        arguments = targets.cuda(), [0, 1, 2], FRAMES.cuda(), torch.tensor([2, 2, 2, 2]).cuda()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            fused(moved, *arguments, reduction="sum").backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([warning for warning in caught if "synchroniz" in str(warning.message)]) == 2
