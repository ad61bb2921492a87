"""Interleaved rounds: what else the machine does hits all that are compared, and the minimum of the rounds is told."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


def take_turns(names: Iterable[str], rounds: int, is_alternating: bool = False) -> Iterator[tuple[int, str]]:
    """
    Each name once a round: the number of the round, and the name.

    Args:
        names: Those who take turns.
        rounds: As many times as each has a turn.
        is_alternating: Every second round goes in the opposite order, so that nobody always follows the same.
    """
    order = list(names)
    for number in range(rounds):
        for name in order if number % 2 == 0 or not is_alternating else reversed(order):
            yield number, name


def seconds_of(call: Callable[[], Any]) -> float:
    """The time that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def minimum_and_median(values: Sequence[float]) -> tuple[float, float]:
    """The two numbers that are written of the rounds."""
    return min(values), statistics.median(values)
