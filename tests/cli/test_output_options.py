"""Options of transcripts: names of formats, rules that belong to them, and the place that is written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from transformers_fastconformer.cli.folder_output import FolderOutput
from transformers_fastconformer.cli.output_options import choose_output, make_rules, parse_formats
from transformers_fastconformer.cli.transcribe_inputs import AudioInput
from transformers_fastconformer.cli.transcribe_outputs import StandardOutput
from transformers_fastconformer.inference.many_files import AudioClip
from transformers_fastconformer.writers.subtitles import SubtitleRules

ITEMS = [AudioInput(AudioClip(f"{name}.wav"), f"{name}.wav", name) for name in ("a", "b")]


def test_names_of_formats() -> None:
    assert parse_formats(["text, srt", "txt", "json"]) == ("txt", "srt", "json")
    with pytest.raises(ValueError, match="--format doc is not supported; expected some of txt, json"):
        parse_formats(["srt,doc"])


def test_rules_belong_to_formats() -> None:
    assert make_rules({"max_lines": 1, "max_seconds": None}, ["srt"]) == SubtitleRules(max_lines=1)
    assert make_rules({"pause_seconds": 2.0}, ["rttm"]) == SubtitleRules(pause_seconds=2.0)
    with pytest.raises(ValueError, match="--max_lines belongs to --format srt, vtt, tsv; found --format txt,rttm"):
        make_rules({"max_lines": 1}, ["txt", "rttm"])


def test_places(tmp_path: Path) -> None:
    rules = SubtitleRules()
    assert isinstance(choose_output(ITEMS, ["srt", "txt"], tmp_path, False, rules), FolderOutput)
    assert isinstance(choose_output(ITEMS, ["txt"], None, False, rules), StandardOutput)
    assert isinstance(choose_output(ITEMS[:1], ["srt"], None, False, rules), StandardOutput)
    for arguments, message in (
        ((ITEMS, ["srt"], None, False, rules), "--format srt takes one file at a time; found 2"),
        ((ITEMS, ["txt", "srt"], None, False, rules), "several formats need --output_dir"),
        ((ITEMS, ["txt"], None, True, rules), "--overwrite belongs to --output_dir"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_output(*arguments)
