"""Outputs of `fastconformer transcribe`: what they are, and the one on the standard output, in order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..writers.formats import UNTITLED_FORMATS, format_transcript
from ..writers.record import TranscriptRecord
from ..writers.subtitles import SubtitleRules
from .streams import ClosedOutput, closed_output_error, escape_controls, write_standard_output
from .transcribe_inputs import AudioInput
from .whole_files import OutputError


class Output(Protocol):
    """Place to which transcripts are written."""

    def has(self, index: int) -> bool:
        """Tell whether all output of an input exists already."""

    def check(self, index: int) -> None:
        """Raise an `InputError` for an input whose output has no place, before it is transcribed."""

    def write(self, index: int, record: TranscriptRecord) -> None:
        """
        Write the transcript of an input, now or when its turn comes.

        Raises:
            OutputError: when nothing can be written any more.
            OSError: when the transcript of this input cannot be written.
            ValueError: when it cannot be put into one of the formats.
        """

    def skip(self, index: int) -> None:
        """Note that an input has failed and will not have a transcript."""

    def close(self, is_whole: bool) -> None:
        """Write what still waits; `is_whole` is true if the run has come to its end."""


@dataclass
class StandardOutput:
    """
    One format on the standard output, in the order of the inputs.

    Args:
        inputs: Clips that are transcribed.
        transcript_format: Format that is written.
        rules: Rules for subtitles.
    """

    inputs: Sequence[AudioInput]
    transcript_format: str
    rules: SubtitleRules
    _waiting: dict[int, str | None] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        if isinstance(sys.stdout, ClosedOutput):
            raise closed_output_error()

    def has(self, index: int) -> bool:
        return False

    def check(self, index: int) -> None:
        """Every text has its place."""

    def write(self, index: int, record: TranscriptRecord) -> None:
        text = format_transcript(record, self.transcript_format, self.rules)
        if self.transcript_format in UNTITLED_FORMATS and len(self.inputs) > 1:
            text = f"{escape_controls(name_input(self.inputs[index]))}: {text}"
        self._waiting[index] = text
        self._write_in_order()

    def skip(self, index: int) -> None:
        self._waiting[index] = None
        self._write_in_order()

    def _write_in_order(self) -> None:
        while self._next in self._waiting:
            text = self._waiting.pop(self._next)
            self._next += 1
            if text is not None:
                self._write_text(text)

    @staticmethod
    def _write_text(text: str) -> None:
        try:
            write_standard_output(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(str(error)) from error

    def close(self, is_whole: bool) -> None:
        """Write the transcripts that wait for a clip that was not done."""
        for index in sorted(self._waiting):
            text = self._waiting.pop(index)
            if text is not None:
                self._write_text(text)


def name_input(item: AudioInput) -> str:
    """Name of an input for readers, with its start and channel."""
    start, channel = item.clip.start_seconds, item.clip.channel
    extra = [f"{start:g} s"] if start else []
    extra += [] if channel == "mix" else [f"channel {channel}"]
    return f"{item.file} ({', '.join(extra)})" if extra else item.file
