"""`fastconformer stream --diarize`: words with speakers as lines, as events and in the transcript."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from diarizers import build_diarizer, make_extractor

from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CLIP_PATHS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sortformer")
    build_diarizer().save_pretrained(folder)
    make_extractor().save_pretrained(folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fastconformer", "stream", *map(str, arguments), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_lines_events_and_subtitles(monkeypatch, capsys, checkpoint: Path, tmp_path: Path) -> None:
    arguments = (CLIP_PATHS[0], "--model", "demo-streaming", "--diarize", checkpoint)
    assert run(monkeypatch, *arguments, "--json", "--format", "srt", "--output_dir", tmp_path) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["diarize"] == str(checkpoint)
    assert events[0]["diarize_latency_ms"] == 640
    words = [word for event in events if event["event"] == "speakers" for word in event["words"]]
    assert [word["word"] for word in words] == events[-1]["text"].split()
    assert all(word["speaker"].startswith("speaker_") for word in words)
    assert "[speaker_" in next(tmp_path.glob("*.srt")).read_text()
    assert run(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(line.split(": ", 1)[1] for line in lines) == events[-1]["text"]
    assert lines[0].startswith(words[0]["speaker"] + ": ")


def test_what_is_refused(monkeypatch, capsys, checkpoint: Path) -> None:
    clip = CLIP_PATHS[0]
    assert run(monkeypatch, clip, "--model", "demo-streaming", "--diarize_latency", "low") == 2
    assert "--diarize_latency belongs to --diarize." in capsys.readouterr().err
    assert run(monkeypatch, clip, "--model", "demo-streaming", "--diarize", "demo") == 2
    assert "expected 'fastconformer_diarization'" in capsys.readouterr().err
