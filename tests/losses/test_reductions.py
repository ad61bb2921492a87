"""One loss of those of the clips."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer.losses.reductions import reduce_clips

LOSSES, TARGETS = torch.tensor([6.0, 8.0]), torch.tensor([2, 4])


@pytest.mark.parametrize(
    ("reduction", "expected"), [("mean", 7.0), ("mean_per_token", 2.5), ("mean_volume", 14 / 6), ("sum", 14.0)]
)
def test_reductions(reduction: str, expected: float) -> None:
    assert float(reduce_clips(LOSSES, TARGETS, reduction)) == pytest.approx(expected)


def test_another_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction='mean_batch' is not supported"):
        reduce_clips(LOSSES, TARGETS, "mean_batch")
