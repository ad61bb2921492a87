"""What a loss can align, against all alignments written out."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from transformers_fastconformer.losses.alignments import count_ctc_frames, has_transducer_alignment
from transformers_fastconformer.losses.ctc import ctc_loss
from transformers_fastconformer.losses.tdt import tdt_loss


@pytest.mark.parametrize(
    ("tokens", "expected"), [([], 0), ([1], 1), ([1, 2, 1], 3), ([1, 1], 3), ([1, 1, 1, 2, 2], 8)]
)
def test_ctc_needs_a_blank_between_equal_tokens(tokens: list[int], expected: int) -> None:
    assert count_ctc_frames(tokens) == expected
    for frames in range(1, 10):
        lengths = torch.tensor([frames]), torch.tensor([len(tokens)])
        targets = torch.tensor([tokens or [0]])
        loss = ctc_loss(torch.zeros(1, frames, 4), targets, *lengths, 3, "mean", False)
        assert bool(loss.isfinite()) == (frames >= expected)


@pytest.mark.parametrize("durations", [(0, 1), (0, 1, 2, 3, 4), (0, 2, 4), (2, 3), (0, 3), (1, 2), (0,)], ids=str)
def test_a_transducer_fills_the_frames_exactly(durations: tuple[int, ...]) -> None:
    for frames, tokens in product(range(8), range(4)):
        # A blank may stand anywhere; one is last. At most as many as there are frames, as they all move on.
        blanks = [duration for duration in durations if duration > 0]
        sums = {0}
        for _ in range(tokens):
            sums = {total + duration for total in sums for duration in durations}
        reached = {total + blank for total in sums for blank in blanks}
        for _ in range(frames):
            reached |= {total + blank for total in reached for blank in blanks if total + blank <= frames}
        expected = frames > 0 and frames in reached
        assert has_transducer_alignment(frames, tokens, durations) == expected, (frames, tokens)


def test_the_loss_agrees() -> None:
    for frames, tokens in product(range(1, 8), range(4)):
        joint = torch.zeros(1, frames, tokens + 1, 4 + 3)
        lengths = torch.tensor([frames]), torch.tensor([tokens])
        loss = tdt_loss(joint, torch.zeros(1, tokens, dtype=torch.int64), *lengths, 3, (0, 2, 4))
        assert bool(loss.isfinite()) == has_transducer_alignment(frames, tokens, (0, 2, 4)), (frames, tokens)
