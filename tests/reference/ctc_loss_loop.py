"""The CTC loss of one clip by enumerating every path of classes: exponential, and beyond doubt."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def ctc_loss_of_clip(log_probs: Sequence[Sequence[float]], labels: Sequence[int], blank_id: int) -> float:
    """Negative log of the summed probability of all paths that collapse to the labels; infinity if there is none."""
    total = 0.0
    for path in itertools.product(sorted({*labels, blank_id}), repeat=len(log_probs)):
        merged = [label for label, _ in itertools.groupby(path)]
        if [label for label in merged if label != blank_id] == list(labels):
            total += math.exp(sum(row[label] for row, label in zip(log_probs, path, strict=True)))
    return -math.log(total) if total > 0 else math.inf
