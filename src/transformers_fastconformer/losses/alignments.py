"""Alignments that a loss has for a text: frames that CTC needs, and sums of durations of a transducer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def count_ctc_frames(token_ids: Sequence[int]) -> int:
    """Count the frames that CTC needs for a text: one a token, and a blank between two that are equal."""
    repeats = sum(before == after for before, after in pairwise(token_ids))
    return len(token_ids) + repeats


def has_transducer_alignment(num_frames: int, num_tokens: int, durations: Sequence[int]) -> bool:
    """
    Tell whether tokens and blanks of some durations can fill frames exactly, with a blank at the end.

    Args:
        num_frames: Frames of the clip.
        num_tokens: Tokens of its text.
        durations: Of a token, 0 among them; a blank has those above 0. RNN-T: (0, 1), of which tokens take 0.
    """
    positive = [duration for duration in durations if duration > 0]
    if not positive or num_frames <= 0:
        return False
    if 0 in durations and 1 in durations:
        return True
    # Bit n of a set: n frames can be filled.
    everything = (1 << (num_frames + 1)) - 1
    filled = 1
    for _ in range(num_tokens):
        following = 0
        for duration in durations:
            following |= filled << duration
        filled, before = following & everything, filled
        if filled == before:
            break
    while True:  # any number of blanks more
        following = filled
        for duration in positive:
            following |= filled << duration
        following &= everything
        if following == filled:
            break
        filled = following
    # The last step is a blank.
    return any(duration <= num_frames and filled >> (num_frames - duration) & 1 for duration in positive)
