"""The TDT loss against loops, finite differences and NeMo."""

from __future__ import annotations

import pytest
import torch
from tolerances import (
    GRADIENT_ABSOLUTE,
    GRADIENT_RELATIVE,
    LOSS_ABSOLUTE,
    LOSS_RELATIVE,
    NEIGHBOUR_GRADIENT_ABSOLUTE,
    NEIGHBOUR_GRADIENT_RELATIVE,
    NEIGHBOUR_LOSS,
)
from transducer_losses import tdt_loss_of_clip

from transformers_fastconformer.losses import rnnt_loss, tdt_loss

BLANK = 5
TOKENS = 6
FRAMES = torch.tensor([9, 5, 8, 1])
TARGETS = torch.tensor([4, 0, 2, 1])
DURATION_LISTS = [[0, 1, 2, 3, 4], [0, 2, 4, 8], [1, 2], [4, 0, 1]]


def make_batch(durations: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Joint outputs (4, 9, 5, 6 + durations) and targets (4, 4) with -100 as padding."""
    generator = torch.Generator().manual_seed(12)
    logits = torch.randn(4, 9, 5, TOKENS + len(durations), generator=generator, dtype=torch.float64) * 2
    targets = torch.randint(0, BLANK, (4, 4), generator=generator)
    targets[torch.arange(4)[None] >= TARGETS[:, None]] = -100
    return logits, targets


@pytest.mark.parametrize("durations", DURATION_LISTS)
@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_equals_the_loop(durations, sigma):
    logits, targets = make_batch(durations)
    losses = tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations, sigma, reduction="none")
    finite = 0
    for clip in range(4):
        frames, labels = int(FRAMES[clip]), int(TARGETS[clip])
        clip_logits = logits[clip, :frames, : labels + 1]
        expected = tdt_loss_of_clip(clip_logits, targets[clip, :labels].tolist(), BLANK, durations, sigma)
        assert float(losses[clip]) == pytest.approx(expected, rel=1e-12)
        finite += expected < float("inf")
    assert finite >= 1


@pytest.mark.parametrize("durations", DURATION_LISTS)
def test_gradient_equals_finite_differences(durations):
    logits, targets = make_batch(durations)
    possible = torch.isfinite(tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations, reduction="none"))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: tdt_loss(x, targets, FRAMES, TARGETS, BLANK, durations, sigma=0.05, reduction="none")[possible],
        (logits,),
        fast_mode=True,
    )


def test_every_element_of_the_gradient_equals_finite_differences():
    durations = [0, 1, 3]
    logits, targets = make_batch(durations)
    logits = logits[:1, :5, :3].clone().requires_grad_()
    arguments = (targets[:1, :2], torch.tensor([5]), torch.tensor([2]), BLANK, durations)
    assert torch.autograd.gradcheck(lambda x: tdt_loss(x, *arguments, sigma=0.05), (logits,))


def test_omega_draws_between_tdt_and_rnnt():
    durations = [0, 1, 2]
    logits, targets = make_batch(durations)
    plain = rnnt_loss(logits[..., :TOKENS], targets, FRAMES, TARGETS, BLANK)
    tdt = tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations)
    assert float(plain) != pytest.approx(float(tdt))
    generator = torch.Generator().manual_seed(0)
    draws = [
        float(tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations, omega=0.3, generator=generator))
        for _ in range(60)
    ]
    of_rnnt = sum(draw == float(plain) for draw in draws)
    assert of_rnnt + sum(draw == float(tdt) for draw in draws) == 60
    assert 8 <= of_rnnt <= 30
    assert float(tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations, sigma=0.1, omega=1.0)) == float(plain)


def test_order_of_durations_does_not_matter():
    logits, targets = make_batch([0, 1, 4])
    swapped = logits[..., [*range(TOKENS), TOKENS + 2, TOKENS, TOKENS + 1]]
    first = tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, [0, 1, 4], reduction="none")
    second = tdt_loss(swapped, targets, FRAMES, TARGETS, BLANK, [4, 0, 1], reduction="none")
    torch.testing.assert_close(first, second)


def test_padding_and_neighbours_change_nothing():
    durations = [0, 1, 2, 3, 4]
    logits, targets = make_batch(durations)
    logits = logits.float().requires_grad_()
    losses = tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations, 0.02, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    for clip in range(4):
        frames, labels = int(FRAMES[clip]), int(TARGETS[clip])
        one = slice(clip, clip + 1)
        alone = logits[one, :frames, : labels + 1].detach().requires_grad_()
        loss = tdt_loss(alone, targets[one, :labels], FRAMES[one], TARGETS[one], BLANK, durations, 0.02)
        (expected,) = torch.autograd.grad(loss, alone)
        torch.testing.assert_close(losses[clip], loss, rtol=NEIGHBOUR_LOSS, atol=NEIGHBOUR_LOSS)
        torch.testing.assert_close(
            gradient[one, :frames, : labels + 1],
            expected,
            rtol=NEIGHBOUR_GRADIENT_RELATIVE,
            atol=NEIGHBOUR_GRADIENT_ABSOLUTE,
        )
        assert gradient[clip, frames:].abs().sum() == 0
        assert gradient[clip, :, labels + 1 :].abs().sum() == 0


@pytest.mark.parametrize("reduction", ["none", "mean_batch"])
def test_impossible_alignment_is_infinite_with_zero_gradient(reduction):
    durations = [0, 2, 4]
    logits, targets = make_batch(durations)
    logits.requires_grad_()
    loss = tdt_loss(logits, targets, torch.tensor([8, 4, 6, 1]), TARGETS, BLANK, durations, reduction=reduction)
    if reduction == "none":
        assert torch.isposinf(loss[3])
        assert torch.isfinite(loss[:3]).all()
    else:
        assert torch.isposinf(loss)
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[3].abs().max() == 0
    assert all(logits.grad[clip].abs().max() > 0 for clip in range(3))


def test_fastemit_scales_loss_and_label_gradient():
    durations = [0, 1, 2]
    logits, targets = make_batch(durations)
    logits.requires_grad_()
    plain = tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations)
    (without,) = torch.autograd.grad(plain, logits)
    regularised = tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations, fastemit_lambda=0.25)
    (with_fastemit,) = torch.autograd.grad(regularised, logits)
    assert float(regularised.detach()) == pytest.approx(1.25 * float(plain.detach()))
    added = with_fastemit - without
    # A clip without targets has no label arc; elsewhere the added gradient pushes the next label up.
    assert added[1].abs().max() == 0
    pushed = added[0, :, :4, :TOKENS].gather(-1, targets[0].expand(9, 4)[..., None])
    assert (pushed <= 1e-12).all()
    assert pushed.min() < -1e-3


def test_long_clip_in_float32_agrees_with_float64():
    durations = [0, 1, 2, 3, 4]
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 300, 61, 25, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(0, 19, (1, 60), generator=generator)
    lengths = torch.tensor([300]), torch.tensor([60])
    exact = tdt_loss(logits, targets, *lengths, 19, durations)
    assert float(tdt_loss(logits.float(), targets, *lengths, 19, durations)) == pytest.approx(float(exact), rel=2e-6)
    half = tdt_loss(logits.half(), targets, *lengths, 19, durations)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(exact), rel=1e-2)


@pytest.mark.parametrize("durations", [[], [0], [0, -1], [0, 1, 1]])
def test_refuses_durations(durations):
    logits, targets = make_batch([0, 1])
    with pytest.raises(ValueError, match="durations="):
        tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations)


def test_refuses_a_duration_output_as_target():
    durations = [0, 1]
    logits, targets = make_batch(durations)
    targets[0, 0] = TOKENS
    with pytest.raises(ValueError, match="targets holds"):
        tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations)


@pytest.mark.gpu
@pytest.mark.parametrize("durations", DURATION_LISTS)
def test_same_on_cuda(durations):
    logits, targets = make_batch(durations)
    losses = tdt_loss(logits.cuda(), targets.cuda(), FRAMES.cuda(), TARGETS.cuda(), BLANK, durations, reduction="none")
    expected = tdt_loss(logits, targets, FRAMES, TARGETS, BLANK, durations, reduction="none")
    torch.testing.assert_close(losses.cpu(), expected)


@pytest.mark.nemo
@pytest.mark.parametrize("durations", [[0, 1, 2, 3, 4], [0, 2, 4, 8]])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_equals_nemo(durations, sigma, monkeypatch):
    losses_module = pytest.importorskip("nemo.collections.asr.losses.rnnt_pytorch")
    # NeMo 3.0 moves its scratch tensors to CUDA without asking.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *args, **kwargs: self)
    logits, targets = make_batch(durations)
    # NeMo reports 1000 where there is no alignment: lengths that have one.
    frames = torch.tensor([8, 4, 6, 2])
    targets = targets.clamp(min=0)
    ours, theirs = logits.float().requires_grad_(), logits.float().requires_grad_()
    loss = tdt_loss(ours, targets, frames, TARGETS, BLANK, durations, sigma)
    nemo_loss = losses_module.TDTLossPytorch(blank=BLANK, durations=durations, reduction="mean_batch", sigma=sigma)
    expected = nemo_loss(acts=theirs, labels=targets, act_lens=frames, label_lens=TARGETS)
    torch.testing.assert_close(loss, expected, rtol=LOSS_RELATIVE, atol=LOSS_ABSOLUTE)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=GRADIENT_RELATIVE, atol=GRADIENT_ABSOLUTE)
