"""The lag of a stream is what computing owes, and not a pause of its source."""

from __future__ import annotations

import pytest

from transformers_fastconformer.streaming.live_clock import LiveClock


class Source:
    """A stream of which pieces of 100 ms come, each step taking some time."""

    def __init__(self) -> None:
        self.clock, self.now, self.heard = LiveClock(), 1000.0, 0.0

    def push(self, step_seconds: float, came_seconds: float | None = None, num_seconds: float = 0.1) -> float:
        self.heard += num_seconds
        self.clock.hear(self.now if came_seconds is None else came_seconds, self.heard, num_seconds > 0)
        self.now += step_seconds
        self.clock.finish_step(self.now)
        return self.clock.lag_seconds(self.now, self.heard)


def test_steps_that_keep_up_have_only_their_own_time() -> None:
    source = Source()
    for _ in range(50):
        assert source.push(0.02) == pytest.approx(0.02)
        source.now += 0.08


def test_a_pause_of_the_source_is_no_lag() -> None:
    source = Source()
    source.push(0.02)
    source.now += 60.0
    assert source.push(0.02) == pytest.approx(0.02)
    source.now += 0.08
    assert source.push(0.02) == pytest.approx(0.02)


def test_steps_that_are_too_long_add_up_and_a_pause_does_not_hide_them() -> None:
    source = Source()
    lags = [source.push(0.3) for _ in range(10)]
    assert lags == pytest.approx([0.3 + 0.2 * place for place in range(10)])
    source.now += 5.0
    assert source.push(0.3) == pytest.approx(2.3)
    for _ in range(30):
        lag = source.push(0.01)
    assert lag == pytest.approx(0.01, abs=0.11)


def test_pieces_that_waited_count_from_when_they_came() -> None:
    source = Source()
    came = [source.now + 0.1 * place for place in range(4)]
    assert [source.push(0.5, one) for one in came] == pytest.approx([0.5, 0.9, 1.3, 1.7])


def test_pieces_of_nothing_neither_hide_lag_nor_are_it() -> None:
    source = Source()
    for _ in range(20):
        source.push(0.0)
        source.now += 0.05
        assert source.push(0.0, num_seconds=0.0) == pytest.approx(0.0)
        source.now += 0.05
    assert source.push(0.5) == pytest.approx(0.5)
    assert source.push(0.5) == pytest.approx(0.9)


def test_a_file_has_no_lag() -> None:
    source = Source()
    assert source.push(1.0, num_seconds=10.0) == 1.0  # nothing tells it from a source that was saved up
    assert source.push(1.0, num_seconds=10.0) == 0.0
    assert not source.clock.is_live(source.now, source.heard)
    assert source.clock.is_live(source.now + 18.0, source.heard)


def test_nothing_is_known_before_the_first_piece() -> None:
    clock = LiveClock()
    clock.hear(5.0, 0.0, has_samples=False)
    clock.finish_step(6.0)
    assert clock.lag_seconds(7.0, 0.0) == 0.0
    assert clock.is_live(7.0, 0.0)
