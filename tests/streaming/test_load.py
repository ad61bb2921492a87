"""Share of real time: by the last steps, for as many streams as are asked for."""

from __future__ import annotations

import pytest

from transformers_fastconformer.streaming.load import MIN_SECONDS, WINDOW_SECONDS, Load


def test_nothing_is_said_before_enough_was_heard() -> None:
    load = Load()
    assert load.share(10) == 0.0
    load.add(1.0, MIN_SECONDS - 0.1)
    assert load.share(10) == 0.0
    load.add(0.0, 0.2)
    assert load.share(10) == pytest.approx(10 / MIN_SECONDS, rel=0.05)


def test_the_last_steps_count() -> None:
    load = Load()
    for _ in range(200):
        load.add(0.5, 1.0)
    assert load.share(1) == pytest.approx(0.5, rel=1e-3)
    assert load.share(4) == pytest.approx(2.0, rel=1e-3)
    for _ in range(int(5 * WINDOW_SECONDS)):
        load.add(0.1, 1.0)
    assert load.share(1) == pytest.approx(0.1, rel=0.05)
    load.add(8.0, 10 * WINDOW_SECONDS)
    assert load.share(1) == pytest.approx(0.04)


def test_steps_without_audio_do_not_count() -> None:
    load = Load()
    load.add(1.0, 10.0)
    load.add(100.0, 0.0)
    assert load.share(1) == pytest.approx(0.1)
