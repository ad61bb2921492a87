"""All texts of a transducer or of CTC on a few frames, with the probabilities of all their alignments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch

Fuse = Callable[[list[float], tuple[int, ...]], list[float]]


def log_softmax(values: Sequence[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in values))
    return [value - total for value in values]


def add_logs(first: float, second: float) -> float:
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def enumerate_transducer(
    logits_of: Callable[[int, tuple[int, ...]], list[float]],
    num_frames: int,
    blank: int,
    durations: list[int] | None,
    max_symbols: int,
    fuse: Fuse = lambda log_probs, tokens: log_probs,
) -> dict[tuple[tuple[int, ...], int], float]:
    """
    Log-probability of each text by the frame in which it ends.

    After as many tokens on a frame as there may be, the blank follows with its best duration. A blank lasts a frame at
    least.
    """
    found: dict[tuple[tuple[int, ...], int], float] = {}

    def go_on(tokens: tuple[int, ...], time: int, symbols: int, total: float) -> None:
        if time >= num_frames:
            found[tokens, time] = add_logs(found.get((tokens, time), -math.inf), total)
            return
        logits = logits_of(time, tokens)
        log_probs = fuse(log_softmax(logits[: blank + 1]), tokens)
        jumps = (
            [(1, 0.0)] if durations is None else list(zip(durations, log_softmax(logits[blank + 1 :]), strict=True))
        )
        if symbols >= max_symbols:
            jump, of_jump = max(jumps, key=lambda pair: pair[1])
            go_on(tokens, time + max(jump, 1), 0, total + log_probs[blank] + of_jump)
            return
        for jump, of_jump in jumps:
            go_on(tokens, time + max(jump, 1), 0, total + log_probs[blank] + of_jump)
            for token in range(blank):
                after = jump if durations is not None else 0
                of_token = total + log_probs[token] + of_jump
                go_on((*tokens, token), time + after, 0 if after else symbols + 1, of_token)

    go_on((), 0, 0, 0.0)
    return found


def enumerate_ctc(
    log_probs: torch.Tensor, blank: int, beta: float, score: Callable[[tuple[int, ...], int], float]
) -> dict[tuple[tuple[int, ...], int], float]:
    """Score of the best path of each text, by the class of its last frame: (frames, classes) log-probabilities."""
    found: dict[tuple[tuple[int, ...], int], float] = {}
    rows = log_probs.tolist()
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(rows)):
        tokens: tuple[int, ...] = ()
        total, last = 0.0, blank
        for row, label in zip(rows, path, strict=True):
            total += row[label]
            if label not in (blank, last):
                total += beta + score(tokens, label)
                tokens = (*tokens, label)
            last = label
        found[tokens, last] = max(found.get((tokens, last), -math.inf), total)
    return found
