"""Smoothed cross entropy against NeMo's rule written out, token by token."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer.losses.smoothed_cross_entropy import smoothed_cross_entropy


def loss_by_loop(logits: torch.Tensor, labels: torch.Tensor, padding_id: int, smoothing: float) -> torch.Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, ids in zip(logits.double(), labels.tolist(), strict=True):
        for scores, label in zip(row, ids, strict=True):
            if label in (-100, padding_id):
                continue
            log_probs = scores.log_softmax(dim=-1)
            # The label keeps 1 - smoothing; each of the other classes has its part of the rest.
            rest = smoothing / (len(scores) - 1)
            total -= sum((1 - smoothing if index == label else rest) * value for index, value in enumerate(log_probs))
            count += 1
    return total / (count + 1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_that_of_a_loop(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 11, generator=generator, requires_grad=True)
    labels = torch.tensor([[3, 4, 10, 2, 0], [1, 2, 2, -100, -100]])
    loss = smoothed_cross_entropy(logits, labels, padding_id=2, label_smoothing=smoothing)
    expected = loss_by_loop(logits, labels, 2, smoothing)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[1, 1:] == 0).all()
    assert (gradient[0, 0] != 0).all()


def test_a_batch_without_labels_has_no_loss() -> None:
    labels = torch.full((1, 2), -100)
    assert smoothed_cross_entropy(torch.randn(1, 2, 5), labels, None, 0.1) == 0


@pytest.mark.nemo
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_that_of_nemo(smoothing: float) -> None:
    from nemo.collections.common.losses import SmoothedCrossEntropyLoss

    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 7, 16, generator=generator)
    labels = torch.randint(0, 16, (3, 7), generator=generator)
    labels[1, 4:] = 2
    expected = SmoothedCrossEntropyLoss(pad_id=2, label_smoothing=smoothing)(
        log_probs=logits.log_softmax(dim=-1), labels=labels
    )
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, 2, smoothing), expected, rtol=1e-6, atol=1e-6)
