"""Lag of live audio."""

from __future__ import annotations

from transformers_fastconformer.cli.stream_lag import LagWatch


def test_a_lag_that_grows_is_told_each_time_it_has_doubled() -> None:
    watch = LagWatch()
    lags = [0.2, 1.0, 1.1, 1.5, 2.0, 2.3, 4.0, 4.7, 3.0]
    told = [lag for lag in lags if watch.note(lag) is not None]
    assert told == [1.1, 2.3, 4.7]
    assert watch.describe() == "Lag: 3.00 s at the end, 4.70 s at most."


def test_a_lag_below_a_second_is_not_told() -> None:
    watch = LagWatch()
    assert [watch.note(lag) for lag in (0.0, 0.9, 0.5)] == [None] * 3
    assert watch.max_seconds == 0.9
    warning = watch.note(1.25)
    assert warning is not None
    assert warning.startswith("The text is 1.2 s late")
