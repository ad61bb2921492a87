"""The CTC loss against a loop over all paths, in a padded batch; labels lose their padding and nothing else."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from transformers_fastconformer.losses.ctc import ctc_loss, split_labels

BLANK, PADDING = 3, 9


def collapse(path: tuple[int, ...]) -> list[int]:
    """The tokens of a path: repeats are one, blanks are none."""
    return [label for label, group in itertools.groupby(path) for _ in [next(group)] if label != BLANK]


def loss_by_paths(logits: torch.Tensor, tokens: list[int]) -> float:
    """Minus the logarithm of the sum over every path of (frames, classes) that collapses to the tokens."""
    log_probs = logits.double().log_softmax(dim=-1)
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=logits.shape[0]):
        if collapse(path) == tokens:
            total += math.exp(sum(float(log_probs[frame, label]) for frame, label in enumerate(path)))
    return -math.log(total) if total else math.inf


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_is_the_sum_over_all_paths(reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, BLANK + 1, generator=generator)
    clips = [(5, [0, 0, 2]), (4, [1]), (2, [])]  # a repeat, which needs a blank between; nothing at all
    targets = torch.tensor([tokens + [0] * (3 - len(tokens)) for _, tokens in clips])
    lengths = torch.tensor([frames for frames, _ in clips]), torch.tensor([len(tokens) for _, tokens in clips])
    expected = [loss_by_paths(logits[clip, :frames], tokens) for clip, (frames, tokens) in enumerate(clips)]
    found = ctc_loss(logits, targets, *lengths, BLANK, reduction, zero_infinity=False)
    assert float(found) == pytest.approx(sum(expected) / (3 if reduction == "mean" else 1), rel=1e-6)


@pytest.mark.parametrize(("zero_infinity", "expected"), [(False, math.inf), (True, 0.0)])
def test_a_clip_too_short_for_its_labels(zero_infinity: bool, expected: float) -> None:
    logits = torch.zeros(1, 2, BLANK + 1)
    lengths = torch.tensor([2]), torch.tensor([2])
    assert float(ctc_loss(logits, torch.tensor([[1, 1]]), *lengths, BLANK, "sum", zero_infinity)) == expected


def test_labels_lose_their_padding() -> None:
    labels = torch.tensor([[0, 2, 1], [1, -100, -100], [2, BLANK, PADDING], [-100, -100, -100]])
    targets, lengths = split_labels(labels, 4, BLANK, PADDING)
    assert targets.tolist() == [[0, 2, 1], [1, 0, 0], [2, 0, 0], [0, 0, 0]]
    assert lengths.tolist() == [3, 1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "batch_size", "message"),
    [
        (torch.tensor([0, 1]), 2, r"labels has shape \(2,\); expected \(2, tokens\)"),
        (torch.tensor([[0, 1]]), 2, r"labels has shape \(1, 2\); expected \(2, tokens\)"),
        (torch.tensor([[0, 5]]), 1, "labels hold the id 5; expected ids below 3"),
        (torch.tensor([[-100, 1]]), 1, "padding between their tokens"),
    ],
)
def test_labels_that_are_refused(labels: torch.Tensor, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_labels(labels, batch_size, BLANK, PADDING)


def test_losses_of_the_clips() -> None:
    """`reduction="none"`: what the others are the mean and the sum of."""
    logits = torch.randn(3, 6, BLANK + 1, generator=torch.Generator().manual_seed(0))
    arguments = (
        logits,
        torch.tensor([[0, 1], [2, 2], [0, 0]]),
        torch.tensor([6, 5, 4]),
        torch.tensor([2, 2, 0]),
        BLANK,
    )
    losses = ctc_loss(*arguments, reduction="none", zero_infinity=False)
    assert losses.shape == (3,)
    assert torch.equal(losses.mean(), ctc_loss(*arguments, reduction="mean", zero_infinity=False))
    assert torch.equal(losses.sum(), ctc_loss(*arguments, reduction="sum", zero_infinity=False))
    with pytest.raises(ValueError, match="reduction='mean_batch' is not supported; expected one of"):
        ctc_loss(*arguments, reduction="mean_batch", zero_infinity=False)
