"""Output of `fastconformer stream`: words on a terminal, committed text in a pipe, or events as lines of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..diarization.live_speakers import SpokenWord
from ..inference.transcript import Transcript
from ..streaming.text import StreamWord
from ..streaming.updates import StreamUpdate
from ..writers.record import CONFIDENCE_DIGITS, SECONDS_DIGITS
from .errors import say
from .streams import ClosedOutput, closed_output_error, escape_controls, write_standard_output

# Stands for a speaker where nobody was heard.
NOBODY = "?"


class Display(Protocol):
    """Place at which a stream is shown."""

    def start(self, facts: Mapping[str, Any]) -> None:
        """Show that the stream begins; `facts` tell of it."""

    def update(self, update: StreamUpdate, lag_seconds: float) -> None:
        """
        Show what is new.

        Raises:
            OSError: when the standard output cannot be written.
        """

    def speak(self, words: Sequence[SpokenWord]) -> None:
        """Show words whose speakers are known now; they were in an update before, or in the one before it."""

    def finish(self, transcript: Transcript, max_lag_seconds: float) -> None:
        """Show that the stream has ended, after its last update."""

    def say(self, line: str) -> None:
        """Say something on the standard error without touching the text."""

    def close(self) -> None:
        """Leave the terminal as it was, whatever has happened."""


class SilentDisplay:
    """Nothing is shown: the standard output is for the transcript."""

    def start(self, facts: Mapping[str, Any]) -> None:
        """Nothing to show."""

    def update(self, update: StreamUpdate, lag_seconds: float) -> None:
        """Nothing to show."""

    def speak(self, words: Sequence[SpokenWord]) -> None:
        """Nothing to show."""

    def finish(self, transcript: Transcript, max_lag_seconds: float) -> None:
        """Nothing to show."""

    def say(self, line: str) -> None:
        say(line)

    def close(self) -> None:
        """Nothing to close."""


class TextDisplay(SilentDisplay):
    """Committed text on the standard output, written as it comes and never again; a line break at the end."""

    def update(self, update: StreamUpdate, lag_seconds: float) -> None:
        if update.committed:
            write_standard_output(update.committed)

    def finish(self, transcript: Transcript, max_lag_seconds: float) -> None:
        write_standard_output("\n")


class SpeakersDisplay(SilentDisplay):
    """Words on the standard output once their speakers are known, a line for each turn; nothing is written again."""

    def __init__(self) -> None:
        self._speaker: str | None = None
        self._has_words = False

    def speak(self, words: Sequence[SpokenWord]) -> None:
        text = ""
        for word, speaker in words:
            if not self._has_words or speaker != self._speaker:
                text += ("\n" if self._has_words else "") + f"{speaker or NOBODY}:"
            self._speaker, self._has_words = speaker, True
            text += " " + escape_controls(word.text)
        if text:
            write_standard_output(text)

    def finish(self, transcript: Transcript, max_lag_seconds: float) -> None:
        if self._has_words:
            write_standard_output("\n")


class JsonDisplay(SilentDisplay):
    """Events on the standard output, a JSON object a line: `started`, `update`, `speakers`, `endpoint`, `final`."""

    def __init__(self) -> None:
        self._tentative = ""

    def start(self, facts: Mapping[str, Any]) -> None:
        self._write({"event": "started", **facts})

    def update(self, update: StreamUpdate, lag_seconds: float) -> None:
        if update.committed or update.words or update.tokens or update.tentative != self._tentative:
            self._tentative = update.tentative
            self._write(
                {
                    "event": "update",
                    "committed": update.committed,
                    "tentative": update.tentative,
                    "words": [_describe_word(word) for word in update.words],
                    "tokens": [_describe_times("token", item.event, item) for item in update.tokens],
                    "heard_seconds": round(update.heard_seconds, SECONDS_DIGITS),
                    "decoded_seconds": round(update.decoded_seconds, SECONDS_DIGITS),
                    "lag_ms": round(1000 * lag_seconds),
                }
            )
        for found in update.endpoints:
            self._write(
                {
                    "event": "endpoint",
                    "kind": found.kind,
                    "cause": found.cause,
                    "seconds": round(found.seconds, SECONDS_DIGITS),
                    "detected_seconds": round(found.detected_seconds, SECONDS_DIGITS),
                    "token": found.token,
                }
            )

    def speak(self, words: Sequence[SpokenWord]) -> None:
        described = [{**_describe_word(word), "speaker": speaker} for word, speaker in words]
        if described:
            self._write({"event": "speakers", "words": described})

    def finish(self, transcript: Transcript, max_lag_seconds: float) -> None:
        confidence = transcript.confidence
        self._write(
            {
                "event": "final",
                "text": transcript.text,
                "confidence": None if confidence is None else round(confidence, CONFIDENCE_DIGITS),
                "duration_seconds": round(transcript.duration_seconds, SECONDS_DIGITS),
                "max_lag_ms": round(1000 * max_lag_seconds),
            }
        )

    @staticmethod
    def _write(event: Mapping[str, Any]) -> None:
        write_standard_output(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")


def _describe_word(word: StreamWord) -> dict[str, Any]:
    described = _describe_times("word", word.text, word)
    if word.confidence is not None:
        described["confidence"] = round(word.confidence, CONFIDENCE_DIGITS)
    return described


def _describe_times(name: str, text: str, timed: Any) -> dict[str, Any]:
    return {name: text, "start": round(timed.start, SECONDS_DIGITS), "end": round(timed.end, SECONDS_DIGITS)}


class TerminalDisplay:
    """
    Text on a terminal: committed words plain, tentative ones dim after them.

    Only the last line is drawn again; lines before it are written once and move up as any output does.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = ""  # committed text of the last line
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, transient=True
        )

    def start(self, facts: Mapping[str, Any]) -> None:
        self._live.start()

    def update(self, update: StreamUpdate, lag_seconds: float) -> None:
        self._line += escape_controls(update.committed)
        *whole, last = Text(self._line).wrap(self._console, self._console.width) or [Text()]
        for line in whole:
            self._console.print(line, soft_wrap=True, highlight=False)
        self._line = last.plain
        self._live.update(Text.assemble(self._line, (escape_controls(update.tentative), "dim")), refresh=True)

    def speak(self, words: Sequence[SpokenWord]) -> None:
        """Nothing to show: a run that tells speakers apart has another display."""

    def finish(self, transcript: Transcript, max_lag_seconds: float) -> None:
        self.close()

    def say(self, line: str) -> None:
        if Console(stderr=True).is_terminal:
            self._console.print(Text(escape_controls(line)), soft_wrap=True, highlight=False)
        else:
            say(line)

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()
        if self._line:
            self._console.print(Text(self._line), soft_wrap=True, highlight=False)
            self._line = ""


def choose_display(is_json: bool, has_transcript: bool, tells_speakers: bool = False) -> Display:
    """
    The place at which a stream is shown.

    Args:
        is_json: Events are wanted.
        has_transcript: A transcript goes to the standard output at the end, and nothing else may.
        tells_speakers: Words come a second time with their speakers, which are shown in their place.

    Raises:
        OSError: for a standard output that is closed.
    """
    if isinstance(sys.stdout, ClosedOutput):
        raise closed_output_error()
    if is_json:
        return JsonDisplay()
    if tells_speakers and not has_transcript:
        return SpeakersDisplay()
    terminal = sys.stderr if has_transcript else sys.stdout
    if terminal.isatty():
        console = Console(file=terminal)
        if not console.is_dumb_terminal:
            return TerminalDisplay(console)
    return SilentDisplay() if has_transcript else TextDisplay()
