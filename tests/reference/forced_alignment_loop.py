"""Forced alignment by trying every path: for a few frames and tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def collapse(path: Sequence[int], blank_id: int) -> list[int]:
    """The tokens of a path of classes."""
    return [label for label, _ in itertools.groupby(path) if label != blank_id]


def best_score(log_probs: Sequence[Sequence[float]], token_ids: Sequence[int], blank_id: int) -> float:
    """Log-probability of the likeliest path that gives the tokens."""
    classes = range(len(log_probs[0]))
    scores = [
        sum(frame[label] for frame, label in zip(log_probs, path, strict=True))
        for path in itertools.product(classes, repeat=len(log_probs))
        if collapse(path, blank_id) == list(token_ids)
    ]
    return max(scores)
