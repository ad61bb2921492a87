"""
Forced alignment: the frames in which known tokens are said, by the Viterbi path through the outputs of a CTC head.

A CTC path is a run of blanks, or not, before, between and after the tokens, each token one frame or more; between two
equal tokens at least one blank. `tests/reference/forced_alignment_loop.py` does the same with plain loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch


class AlignedToken(NamedTuple):
    """
    A token and its frames.

    Args:
        token_id: The token.
        start_frame: Its first frame.
        stop_frame: The frame after its last one.
        log_prob: Mean log-probability of it in these frames.
    """

    token_id: int
    start_frame: int
    stop_frame: int
    log_prob: float


def count_needed_frames(token_ids: Sequence[int]) -> int:
    """Frames that a path through tokens has at least: one each, and a blank between two that are the same."""
    return len(token_ids) + sum(1 for before, after in pairwise(token_ids) if before == after)


def align_tokens(log_probs: torch.Tensor, token_ids: Sequence[int], blank_id: int) -> list[AlignedToken]:
    """
    Align tokens with the frames of a clip.

    Args:
        log_probs: (frames, classes), of a CTC head.
        token_ids: The tokens of the text, without blanks.
        blank_id: Class of the blank.

    Returns:
        The tokens in order, with frames that follow each other.

    Raises:
        ValueError: for tokens that are no class, and for more of them than the frames have place for.
    """
    num_frames, num_classes = log_probs.shape
    wrong = [token_id for token_id in token_ids if not 0 <= token_id < num_classes or token_id == blank_id]
    if wrong:
        raise ValueError(
            f"token_ids has {wrong[0]}; expected classes 0 to {num_classes - 1} without the blank, {blank_id}."
        )
    if count_needed_frames(token_ids) > num_frames:
        raise ValueError(
            f"token_ids has {len(token_ids)} tokens, which need {count_needed_frames(token_ids)} frames; expected at "
            f"most the {num_frames} of the clip."
        )
    if not token_ids:
        return []
    states = _find_path(log_probs, token_ids, blank_id)
    aligned = []
    places = torch.arange(num_frames, dtype=torch.int64, device="cpu")
    for position, token_id in enumerate(token_ids):
        frames = places[states == 2 * position + 1]
        start, stop = int(frames[0]), int(frames[-1]) + 1
        aligned.append(AlignedToken(token_id, start, stop, float(log_probs[start:stop, token_id].mean())))
    return aligned


def _find_path(log_probs: torch.Tensor, token_ids: Sequence[int], blank_id: int) -> torch.Tensor:
    """State of each frame, (frames,): blanks are even, token i is 2 i + 1."""
    labels = torch.full((2 * len(token_ids) + 1,), blank_id, dtype=torch.int64, device="cpu")
    labels[1::2] = torch.tensor(list(token_ids), dtype=torch.int64, device="cpu")
    # A token may follow the one before without a blank unless both are the same.
    may_skip = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    may_skip[3::2] = labels[3::2] != labels[1:-2:2]
    emissions = log_probs.detach().to("cpu", torch.float64)[:, labels]  # (frames, states)
    unreachable = torch.full((1,), -torch.inf, dtype=torch.float64, device="cpu")
    scores = torch.full((len(labels),), -torch.inf, dtype=torch.float64, device="cpu")
    scores[:2] = emissions[0, :2]
    steps = torch.zeros(emissions.shape, dtype=torch.int8, device="cpu")  # states that each came over
    for frame in range(1, len(emissions)):
        one_back = torch.cat([unreachable, scores[:-1]])
        two_back = torch.cat([unreachable, unreachable, scores[:-2]]).masked_fill(~may_skip, -torch.inf)
        best, step = torch.stack([scores, one_back, two_back]).max(dim=0)
        scores, steps[frame] = best + emissions[frame], step.to(torch.int8)
    state = len(labels) - (1 if scores[-1] >= scores[-2] else 2)
    states = torch.zeros(len(emissions), dtype=torch.int64, device="cpu")
    for frame in range(len(emissions) - 1, -1, -1):
        states[frame] = state
        state -= int(steps[frame, state])
    return states
