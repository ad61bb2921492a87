"""Greedy decoding of one clip, written as loops: the truth that the batched forms are held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Emission(NamedTuple):
    """A token, the frame it was found in, the duration predicted with it, and its log-probability."""

    token: int
    frame: int
    duration: int
    log_prob: float


def log_softmax_at(logits: Sequence[float], index: int) -> float:
    top = max(logits)
    return logits[index] - top - math.log(sum(math.exp(value - top) for value in logits))


def best_index(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda index: values[index])


def decode_ctc_clip(log_probs: Sequence[Sequence[float]], blank_id: int) -> list[Emission]:
    """Best class of each frame; a class is a token where it is no blank and differs from the frame before."""
    emissions = []
    previous = blank_id
    for frame, row in enumerate(log_probs):
        best = best_index(row)
        if best not in (blank_id, previous):
            emissions.append(Emission(best, frame, 0, row[best]))
        previous = best
    return emissions


def decode_transducer_clip(
    logits_of: Callable[[int, tuple[int, ...]], Sequence[float]],
    num_frames: int,
    blank_id: int,
    durations: Sequence[int] | None,
    max_symbols: int | None,
    strategy: str = "greedy_batch",
) -> list[Emission]:
    """
    Frame by frame, and on each frame token by token.

    Args:
        logits_of: Joint outputs for a frame and the tokens so far: tokens and blank, then the duration classes.
        num_frames: Frames of the clip.
        blank_id: Class of the blank.
        durations: Values of the duration classes; None for RNN-T.
        max_symbols: Most tokens on one frame.
        strategy: `"greedy_batch"`, or `"greedy"`, which for TDT is another loop.
    """
    if strategy == "greedy" and durations is not None:
        return _decode_tdt_clip_plainly(logits_of, num_frames, blank_id, durations, max_symbols)
    emissions: list[Emission] = []
    frame = 0
    while frame < num_frames:
        tokens_here = 0
        step = 0
        while step == 0:
            if max_symbols is not None and tokens_here == max_symbols:
                step = 1
                break
            logits = logits_of(frame, tuple(emission.token for emission in emissions))
            best = best_index(logits[: blank_id + 1])
            if durations is None:
                step = 1 if best == blank_id else 0
            else:
                step = durations[best_index(logits[blank_id + 1 :])]
                if best == blank_id and step == 0:
                    step = 1
            if best != blank_id:
                log_prob = log_softmax_at(logits[: blank_id + 1], best)
                emissions.append(Emission(best, frame, step, log_prob))
                tokens_here += 1
        frame += step
    return emissions


def _decode_tdt_clip_plainly(
    logits_of: Callable[[int, tuple[int, ...]], Sequence[float]],
    num_frames: int,
    blank_id: int,
    durations: Sequence[int],
    max_symbols: int | None,
) -> list[Emission]:
    """NeMo's `greedy`: answers on a frame are counted, blanks too; after `max_symbols` of them a frame is left out."""
    emissions: list[Emission] = []
    frame = 0
    while frame < num_frames:
        num_answers, duration = 0, 0
        while duration == 0 and num_answers != max_symbols:
            logits = logits_of(frame, tuple(emission.token for emission in emissions))
            best = best_index(logits[: blank_id + 1])
            duration = durations[best_index(logits[blank_id + 1 :])]
            if best != blank_id:
                emissions.append(Emission(best, frame, duration, log_softmax_at(logits[: blank_id + 1], best)))
            num_answers += 1
        frame += duration
        if num_answers == max_symbols:
            frame += 1
    return emissions
