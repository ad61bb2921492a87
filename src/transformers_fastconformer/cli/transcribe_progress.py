"""Progress bar of `fastconformer transcribe`, on the standard error if that is a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

# Seconds that a clip of unknown length counts, if no other clip has a known length.
UNKNOWN_SECONDS = 60.0
# No recording is longer: a header that says so does not know the length.
MAX_PLAUSIBLE_SECONDS = 30 * 86400.0


class SpeedColumn(ProgressColumn):
    """Column with the seconds of audio that are done in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:.0f}x real time", style="progress.data.speed")


class TranscriptionProgress:
    """
    Counts clips and seconds of audio, and shows them with the time that is left.

    Args:
        lengths_seconds: Length of each clip; None: not known. Lengths that no recording has are not known either.
        is_shown: True to show a bar.
        console: Place of the bar; None: the standard error.
    """

    def __init__(
        self, lengths_seconds: Sequence[float | None], is_shown: bool = True, console: Console | None = None
    ) -> None:
        plausible = [
            seconds if seconds is not None and 0 <= seconds <= MAX_PLAUSIBLE_SECONDS else None
            for seconds in lengths_seconds
        ]
        known = [seconds for seconds in plausible if seconds is not None]
        guess = sum(known) / len(known) if known else UNKNOWN_SECONDS
        self._lengths = [guess if seconds is None else seconds for seconds in plausible]
        self._done = [0.0] * len(self._lengths)
        self._num_finished = 0
        self._is_shown = is_shown
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            SpeedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console or Console(stderr=True),
            disable=not is_shown,
            # Other output must go to its own place, not to the console of the bar.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID = self._progress.add_task(self._describe(), total=sum(self._lengths))

    def _describe(self) -> str:
        return f"{self._num_finished} of {len(self._lengths)}"

    def update(self, index: int, seconds: float) -> None:
        """Note the seconds of a clip that are done."""
        seconds = min(seconds, self._lengths[index])
        self._progress.advance(self._task, max(seconds - self._done[index], 0.0))
        self._done[index] = max(seconds, self._done[index])

    def finish(self, index: int, seconds: float | None) -> None:
        """
        Note that a clip is done, or has failed.

        Args:
            index: Number of the clip.
            seconds: Its length, which is known now and counts from now on; None: it has failed, and what was not done
                does not count.
        """
        self._lengths[index] = max(self._done[index], seconds or 0.0)
        self._num_finished += 1
        self._progress.update(self._task, description=self._describe(), total=sum(self._lengths))
        self.update(index, self._lengths[index])

    def __enter__(self) -> TranscriptionProgress:
        if self._is_shown:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._progress.stop()
