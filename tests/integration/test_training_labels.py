"""Labels padded with -100 in every head: loss and gradient of a batch are those of its clips without padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import HEADS, build_model, few_of, make_features

ROWS = ([3, 1, 4, 1], [2], [5, 5])
LENGTHS = [90, 33, 61]


def loss_and_gradients(model: Any, rows: list[list[int]], lengths: list[int], extra: int) -> tuple[float, list[Any]]:
    """Loss of labels padded to the longest and so many columns more, and the gradients of all weights."""
    model.zero_grad()
    longest = max(map(len, rows)) + extra
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    features = make_features(LENGTHS)[[LENGTHS.index(length) for length in lengths]]
    loss = model(features, input_lengths=torch.tensor(lengths), labels=labels).loss
    loss.backward()
    return float(loss), [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()]


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_padding_of_labels_changes_nothing(kind: str) -> None:
    model = build_model(kind).double()
    rows = [list(row) for row in ROWS]
    loss, gradients = loss_and_gradients(model, rows, LENGTHS, 0)
    padded_loss, padded_gradients = loss_and_gradients(model, rows, LENGTHS, 3)
    assert padded_loss == pytest.approx(loss, rel=1e-12)
    for found, expected in zip(padded_gradients, gradients, strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    alone = [loss_and_gradients(model, [row], [length], 0) for row, length in zip(rows, LENGTHS, strict=True)]
    assert loss > 0
    assert sum(one for one, _ in alone) / len(alone) == pytest.approx(loss, rel=1e-6)
