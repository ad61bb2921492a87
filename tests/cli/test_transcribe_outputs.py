"""The standard output: names of one line; one that is closed is told at once."""

from __future__ import annotations

import sys

import pytest
from audio_inputs import clips, record

from transformers_fastconformer.cli.streams import ClosedOutput
from transformers_fastconformer.cli.transcribe_outputs import StandardOutput
from transformers_fastconformer.writers.subtitles import SubtitleRules

RULES = SubtitleRules()


def test_names_on_the_standard_output_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    inputs = clips("a\nb\x1b[2J", "c\u202e")
    output = StandardOutput(inputs, "txt", RULES)
    for index, item in enumerate(inputs):
        output.write(index, record(item))
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].startswith("a\\u000ab\\u001b[2J.wav: text of a")
    assert lines[-2].startswith("c\\u202e.wav: text of c")


def test_a_standard_output_that_is_closed_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", ClosedOutput())
    with pytest.raises(OSError, match="the standard output is closed"):
        StandardOutput(clips("a"), "txt", RULES)
