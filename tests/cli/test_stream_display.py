"""What is shown of a stream: on a terminal, in a pipe, as JSON."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

import pytest
from rich.console import Console

from transformers_fastconformer.cli.stream_display import (
    JsonDisplay,
    SilentDisplay,
    TerminalDisplay,
    TextDisplay,
    choose_display,
)
from transformers_fastconformer.cli.streams import ClosedOutput
from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.streaming.endpointing import EndpointEvent
from transformers_fastconformer.streaming.text import StreamEvent, StreamWord
from transformers_fastconformer.streaming.updates import StreamUpdate

DIM = "\x1b[2m"
TRANSCRIPT = Transcript("one two three", None, 2.5, confidence=0.123456)
UPDATES = [
    StreamUpdate(committed="one", tentative=" too", heard_seconds=1.0),
    StreamUpdate(tentative=" too"),
    StreamUpdate(
        committed=" two",
        tentative=" three",
        words=[StreamWord("one", 0, 5, 0.0, 0.4, 0.987654)],
        tokens=[StreamEvent("<EOU>", 9, 10, 0.72, 0.8)],
        endpoints=[EndpointEvent("end_of_utterance", "tokens", 0.8, 0.8, 2, "<EOU>")],
        heard_seconds=2.0,
        decoded_seconds=1.6,
    ),
    StreamUpdate(committed=" three", heard_seconds=2.5, is_final=True),
]


class Terminal(io.StringIO):
    """A terminal that keeps what was written to it."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Lines as a terminal shows them, and not more of control codes than the display uses."""
        lines, row, column = [""], 0, 0
        for text, code, argument in re.findall(r"([^\x1b]+)|\x1b\[([?\d;]*)([A-Za-z])", self.getvalue()):
            if argument == "A":
                row -= int(code or 1)
            elif argument == "K":
                lines[row] = ""
            elif argument:
                assert argument in "mhl", (code, argument)
            for character in text:
                if character == "\n":
                    row, column = row + 1, 0
                    lines += [""] * (row + 1 - len(lines))
                elif character == "\r":
                    column = 0
                else:
                    lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
                    column += 1
        return lines


def make_display(width: int = 40) -> tuple[Terminal, TerminalDisplay]:
    terminal = Terminal()
    console = Console(file=terminal, force_terminal=True, width=width, color_system="standard", _environ={})
    return terminal, TerminalDisplay(console)


def test_committed_words_are_plain_and_tentative_ones_dim() -> None:
    terminal, display = make_display()
    display.start({})
    for update in UPDATES:
        display.update(update, 0.0)
        if update.tentative:
            last = terminal.getvalue()[terminal.getvalue().rindex(DIM) :]
            assert last.startswith(f"{DIM}{update.tentative}")
            assert "\x1b[0m" in last
    display.finish(TRANSCRIPT, 0.0)
    assert "".join(terminal.screen()).rstrip() == "one two three"


def test_long_text_is_broken_between_words_and_lines_above_are_not_written_again() -> None:
    terminal, display = make_display(20)
    display.start({})
    words = [f"word{number}" for number in range(30)]
    for number, word in enumerate(words):
        display.update(StreamUpdate(committed=(" " if number else "") + word, tentative=" and more to come"), 0.0)
    display.finish(TRANSCRIPT, 0.0)
    lines = [line.rstrip() for line in terminal.screen() if line.strip()]
    assert " ".join(lines).split() == words
    assert all(len(line) <= 20 for line in lines)
    assert terminal.getvalue().count("word0 ") <= 4  # in the line that it is in, and once for good


def test_what_is_said_stands_before_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = make_display()
    monkeypatch.setattr(sys, "stderr", terminal)
    display.start({})
    display.update(UPDATES[0], 0.0)
    display.say("Late \x1b[31m.")
    display.update(UPDATES[2], 0.0)
    display.close()
    assert [line.rstrip() for line in terminal.screen() if line.strip()] == ["Late \\u001b[31m.", "one two"]


def test_nothing_in_a_text_moves_the_cursor() -> None:
    terminal, display = make_display()
    display.start({})
    display.update(StreamUpdate(committed="a\x1b[2Jb", tentative="\x1b[31m"), 0.0)
    display.close()
    assert "\x1b[2J" not in terminal.getvalue()
    assert "\x1b[31m" not in terminal.getvalue()


def test_a_pipe_has_committed_text_once(capsys: pytest.CaptureFixture[str]) -> None:
    display = TextDisplay()
    display.start({})
    for update in UPDATES:
        display.update(update, 0.0)
    display.finish(TRANSCRIPT, 0.0)
    display.say("Late.")
    display.close()
    captured = capsys.readouterr()
    assert captured.out == "one two three\n"
    assert captured.err == "Late.\n"


def test_json_has_an_event_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    display = JsonDisplay()
    display.start({"file": "talk.wav", "latency_ms": 80.0})
    for update in UPDATES:
        display.update(update, 0.0456)
    display.finish(TRANSCRIPT, 1.25)
    events: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["started", "update", "update", "endpoint", "update", "final"]
    assert events[0] == {"event": "started", "file": "talk.wav", "latency_ms": 80.0}
    assert "".join(event.get("committed", "") for event in events) == TRANSCRIPT.text
    assert events[2]["words"] == [{"word": "one", "start": 0.0, "end": 0.4, "confidence": 0.9877}]
    assert events[2]["tokens"] == [{"token": "<EOU>", "start": 0.72, "end": 0.8}]
    assert (events[2]["heard_seconds"], events[2]["decoded_seconds"], events[2]["lag_ms"]) == (2.0, 1.6, 46)
    assert events[3] == {
        "event": "endpoint",
        "kind": "end_of_utterance",
        "cause": "tokens",
        "seconds": 0.8,
        "detected_seconds": 0.8,
        "token": "<EOU>",
    }
    assert events[5] == {
        "event": "final",
        "text": "one two three",
        "confidence": 0.1235,
        "duration_seconds": 2.5,
        "max_lag_ms": 1250,
    }


def test_the_place_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a pipe gets no escapes all the same
    monkeypatch.setenv("TERM", "xterm")
    pipe, terminal = io.StringIO(), Terminal()

    def choose(stdout: io.StringIO, stderr: io.StringIO, is_json: bool, has_transcript: bool) -> type:
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        return type(choose_display(is_json, has_transcript))

    assert choose(pipe, terminal, False, False) is TextDisplay
    assert choose(terminal, pipe, False, False) is TerminalDisplay
    assert choose(terminal, terminal, True, False) is JsonDisplay
    assert choose(pipe, pipe, False, True) is SilentDisplay
    assert choose(pipe, terminal, False, True) is TerminalDisplay
    monkeypatch.setenv("TERM", "dumb")
    assert choose(terminal, terminal, False, False) is TextDisplay
    monkeypatch.setattr(sys, "stdout", ClosedOutput())
    with pytest.raises(OSError, match="the standard output is closed"):
        choose_display(False, False)
