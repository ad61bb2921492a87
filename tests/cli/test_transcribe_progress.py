"""The bar of `fastconformer transcribe`: what it counts and where it is seen."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from transformers_fastconformer.cli.transcribe_progress import (
    UNKNOWN_SECONDS,
    SpeedColumn,
    TranscriptionProgress,
)


def make_console(is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100)


def test_a_bar_counts_seconds_and_clips() -> None:
    console = make_console(True)
    with TranscriptionProgress([30.0, 10.0, None], console=console) as progress:
        (task,) = progress._progress.tasks
        assert task.total == 60.0  # one of unknown length counts as the mean of the others
        progress.update(0, 12.0)
        progress.update(0, 6.0)  # nothing goes backwards
        assert task.completed == 12.0
        progress.finish(0, 30.0)
        assert task.completed == 30.0
        progress.update(1, 99.0)  # a header that promised less
        assert task.completed == 40.0
        assert task.description == "1 of 3"
        progress.finish(1, 99.0)
        assert (task.completed, task.total) == (129.0, 149.0)
        progress.finish(2, None)  # it has failed: its seconds were not done
        assert (task.completed, task.total) == (129.0, 129.0)
        assert task.finished
    assert isinstance(console.file, io.StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "3 of 3" in shown
    assert "100 %" in shown
    assert "left" in shown


def test_lengths_that_no_recording_has_are_not_known() -> None:
    """Headers of streams announce up to 2**63 samples, which would make the speed nonsense."""
    with TranscriptionProgress([10.0, 2.0**63 / 16000, -1.0, float("inf")], console=make_console(True)) as progress:
        (task,) = progress._progress.tasks
        assert task.total == 40.0
        for index in range(4):
            progress.finish(index, 10.0)
        assert task.completed == 40.0


def test_nothing_is_shown_where_nobody_looks() -> None:
    console = make_console(True)
    with TranscriptionProgress([None], is_shown=False, console=console) as progress:
        assert progress._progress.tasks[0].total == UNKNOWN_SECONDS
        progress.finish(0, 1.0)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    ("finished", "speed", "text"), [(None, None, ""), (None, 44.6, "45x real time"), (9.0, 1.0, "9x real time")]
)
def test_the_speed_is_that_of_the_audio(finished: float | None, speed: float | None, text: str) -> None:
    task: Any = SimpleNamespace(finished_speed=finished, speed=speed)
    assert SpeedColumn().render(task).plain == text
