"""Interleaved rounds: other load of the machine affects all systems alike, and the minimum of the rounds counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


def take_turns(names: Iterable[str], rounds: int, is_alternating: bool = False) -> Iterator[tuple[int, str]]:
    """
    Give each name once a round: the number of the round, and the name.

    Args:
        names: Systems that take turns.
        rounds: Number of turns of each.
        is_alternating: True to reverse the order in every second round, so that no system always follows the same one.
    """
    order = list(names)
    for number in range(rounds):
        for name in order if number % 2 == 0 or not is_alternating else reversed(order):
            yield number, name


def seconds_of(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def minimum_and_median(values: Sequence[float]) -> tuple[float, float]:
    """Minimum and median of the rounds, the two numbers in the results."""
    return min(values), statistics.median(values)
