"""The RNN-T loss against loops, finite differences and NeMo."""

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
from transducer_losses import rnnt_loss_of_clip

from transformers_fastconformer.losses import rnnt_loss

BLANK = 5
TOKENS = 6
FRAMES = torch.tensor([7, 5, 6, 1])
TARGETS = torch.tensor([4, 0, 2, 1])


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Joint outputs (4, 7, 5, 6) and targets (4, 4) with -100 as padding."""
    generator = torch.Generator().manual_seed(11)
    logits = torch.randn(4, 7, 5, TOKENS, generator=generator, dtype=torch.float64) * 2
    targets = torch.randint(0, BLANK, (4, 4), generator=generator)
    targets[torch.arange(4)[None] >= TARGETS[:, None]] = -100
    return logits, targets


def test_equals_the_loop(batch):
    logits, targets = batch
    losses = rnnt_loss(logits, targets, FRAMES, TARGETS, BLANK, reduction="none")
    for clip in range(4):
        frames, labels = int(FRAMES[clip]), int(TARGETS[clip])
        expected = rnnt_loss_of_clip(logits[clip, :frames, : labels + 1], targets[clip, :labels].tolist(), BLANK)
        assert float(losses[clip]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("blank_id", [0, 2, 5])
def test_blank_may_be_any_token(batch, blank_id):
    logits, _ = batch
    targets = torch.tensor([[1, 3, 4, 1]])
    loss = rnnt_loss(logits[:1], targets, torch.tensor([7]), torch.tensor([4]), blank_id)
    assert float(loss) == pytest.approx(rnnt_loss_of_clip(logits[0], targets[0].tolist(), blank_id), rel=1e-12)


def test_gradient_equals_finite_differences(batch):
    """Number by number for two clips that are cut, and in a random direction for all of them."""
    logits, targets = batch
    some = logits[2:, :4, :3].clone().requires_grad_()
    frames = FRAMES[2:].clamp(max=4)
    assert torch.autograd.gradcheck(
        lambda x: rnnt_loss(x, targets[2:, :2], frames, TARGETS[2:], BLANK, reduction="none"), (some,)
    )
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: rnnt_loss(x, targets, FRAMES, TARGETS, BLANK, reduction="none"), (logits,), fast_mode=True
    )


def test_padding_and_neighbours_change_nothing(batch):
    logits, targets = batch
    logits = logits.float().requires_grad_()
    losses = rnnt_loss(logits, targets, FRAMES, TARGETS, BLANK, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    for clip in range(4):
        frames, labels = int(FRAMES[clip]), int(TARGETS[clip])
        alone = logits[clip : clip + 1, :frames, : labels + 1].detach().requires_grad_()
        loss = rnnt_loss(
            alone, targets[clip : clip + 1, :labels], FRAMES[clip : clip + 1], TARGETS[clip : clip + 1], BLANK
        )
        (expected,) = torch.autograd.grad(loss, alone)
        torch.testing.assert_close(losses[clip], loss, rtol=NEIGHBOUR_LOSS, atol=NEIGHBOUR_LOSS)
        torch.testing.assert_close(
            gradient[clip : clip + 1, :frames, : labels + 1],
            expected,
            rtol=NEIGHBOUR_GRADIENT_RELATIVE,
            atol=NEIGHBOUR_GRADIENT_ABSOLUTE,
        )
        assert gradient[clip, frames:].abs().sum() == 0
        assert gradient[clip, :, labels + 1 :].abs().sum() == 0


def test_long_clip_in_float32_agrees_with_float64():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 300, 61, 20, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(0, 19, (1, 60), generator=generator)
    lengths = torch.tensor([300]), torch.tensor([60])
    exact = rnnt_loss(logits, targets, *lengths, 19)
    assert float(rnnt_loss(logits.float(), targets, *lengths, 19)) == pytest.approx(float(exact), rel=2e-6)
    half = rnnt_loss(logits.bfloat16(), targets, *lengths, 19)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(exact), rel=1e-2)


def test_clip_without_frames_is_impossible_and_gets_no_gradient(batch):
    logits, targets = batch
    logits = logits.requires_grad_()
    losses = rnnt_loss(logits, targets, torch.tensor([7, 0, 0, 1]), TARGETS, BLANK, reduction="none")
    assert losses[1] == 0.0  # nothing heard, nothing said
    assert torch.isposinf(losses[2])
    losses.mean().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[2].abs().max() == 0
    assert logits.grad[0].abs().max() > 0


def test_masked_tokens_give_no_nan(batch):
    logits, targets = batch
    logits[..., 3] = -torch.inf
    targets = targets.masked_fill(targets == 3, 2)
    logits.requires_grad_()
    loss = rnnt_loss(logits, targets, FRAMES, TARGETS, BLANK)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_reductions(batch):
    logits, targets = batch
    losses = rnnt_loss(logits, targets, FRAMES, TARGETS, BLANK, reduction="none")
    expected = {
        "mean_batch": losses.mean(),
        "sum": losses.sum(),
        "mean_volume": losses.sum() / 7,
        "mean": (losses / torch.tensor([4, 1, 2, 1])).mean(),
    }
    for reduction, value in expected.items():
        torch.testing.assert_close(rnnt_loss(logits, targets, FRAMES, TARGETS, BLANK, reduction), value)


def test_fastemit_scales_the_label_gradient():
    logits = torch.zeros(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    arguments = (torch.tensor([[0]]), torch.tensor([2]), torch.tensor([1]), 2)
    plain = rnnt_loss(logits, *arguments)
    (without,) = torch.autograd.grad(plain, logits)
    regularised = rnnt_loss(logits, *arguments, fastemit_lambda=0.5)
    (with_fastemit,) = torch.autograd.grad(regularised, logits)
    assert float(regularised.detach()) == pytest.approx(1.5 * float(plain.detach()))
    # Both alignments are equally likely, so each label arc has posterior 1/2 and FastEmit adds 1/4 of its gradient,
    # (softmax - one-hot) / 4, at the nodes (0, 0) and (1, 0).
    added = torch.zeros_like(logits)
    added[0, :, 0] = torch.tensor([1 / 3 - 1, 1 / 3, 1 / 3]) / 4
    torch.testing.assert_close(with_fastemit - without, added)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": "median"}, "reduction='median'"),
        ({"encoder_lengths": torch.tensor([8, 5, 6, 1])}, "encoder_lengths"),
        ({"target_lengths": torch.tensor([5, 0, 2, 1])}, "target_lengths"),
        ({"targets": torch.full((4, 4), BLANK)}, "targets holds"),
        ({"targets": torch.full((4, 4), -100)}, "targets holds"),
        ({"targets": torch.zeros(4, 3, dtype=torch.long)}, "do not fit"),
        ({"blank_id": 6}, "blank_id=6"),
        ({"encoder_lengths": torch.tensor([7.0, 5, 6, 1])}, "expected integers"),
        ({"encoder_lengths": torch.tensor([7, 5])}, "encoder_lengths has shape"),
    ],
)
def test_refuses_what_does_not_fit(batch, change, message):
    logits, targets = batch
    arguments = {
        "joint_logits": logits,
        "targets": targets,
        "encoder_lengths": FRAMES,
        "target_lengths": TARGETS,
        "blank_id": BLANK,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        rnnt_loss(**arguments)


@pytest.mark.gpu
def test_same_on_cuda(batch):
    logits, targets = (tensor.cuda() for tensor in batch)
    losses = rnnt_loss(logits, targets, FRAMES.cuda(), TARGETS.cuda(), BLANK, reduction="none")
    expected = rnnt_loss(*batch, FRAMES, TARGETS, BLANK, reduction="none")
    torch.testing.assert_close(losses.cpu(), expected)


@pytest.mark.nemo
def test_equals_nemo(batch):
    losses_module = pytest.importorskip("nemo.collections.asr.losses.rnnt_pytorch")
    logits, targets = batch
    targets = targets.clamp(min=0)
    ours, theirs = logits.float().requires_grad_(), logits.float().requires_grad_()
    for reduction in ("mean_batch", "sum", "mean_volume"):
        loss = rnnt_loss(ours, targets, FRAMES, TARGETS, BLANK, reduction)
        nemo_loss = losses_module.RNNTLossPytorch(blank=BLANK, reduction=reduction)
        expected = nemo_loss(acts=theirs, labels=targets, act_lens=FRAMES, label_lens=TARGETS)
        torch.testing.assert_close(loss, expected, rtol=LOSS_RELATIVE, atol=LOSS_ABSOLUTE)
        (gradient,) = torch.autograd.grad(loss, ours)
        (expected_gradient,) = torch.autograd.grad(expected, theirs)
        torch.testing.assert_close(gradient, expected_gradient, rtol=GRADIENT_RELATIVE, atol=GRADIENT_ABSOLUTE)


@pytest.mark.nemo
def test_fastemit_equals_nemo(batch):
    losses_module = pytest.importorskip("nemo.collections.asr.parts.numba.rnnt_loss.rnnt_pytorch")
    logits = batch[0].float()[:1]
    targets = batch[1][:1]
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = rnnt_loss(ours, targets, FRAMES[:1], TARGETS[:1], BLANK, "sum", fastemit_lambda=0.3)
    nemo_loss = losses_module.RNNTLossNumba(blank=BLANK, reduction="sum", fastemit_lambda=0.3)
    expected = nemo_loss(theirs, targets, FRAMES[:1], TARGETS[:1])
    loss.backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=GRADIENT_RELATIVE, atol=GRADIENT_ABSOLUTE)
