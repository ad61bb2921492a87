"""Clips with values that are not finite are refused by their number; padding may hold anything."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer.modeling.finite_check import FiniteCheck


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_clips_are_named(value: float) -> None:
    values = torch.zeros(3, 5, 2)
    values[1, 4, 0] = value
    with pytest.raises(ValueError, match=r"logits holds NaN or infinite values in clips \[1\]; expected .* ones\.!"):
        FiniteCheck("logits", values, None, "!")
    FiniteCheck("logits", values, torch.tensor([5, 4, 5])).finish()


def test_a_sum_that_overflows_is_no_reason() -> None:
    FiniteCheck("logits", torch.full((1, 2, 3), 3e38), None).finish()


def test_no_clips_are_finite() -> None:
    FiniteCheck("logits", torch.zeros(0, 4, 2), torch.zeros(0, dtype=torch.int64)).finish()
