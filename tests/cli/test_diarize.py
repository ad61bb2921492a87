"""`fastconformer diarize`, and the speakers of `fastconformer transcribe --diarize`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from diarizers import build_diarizer, make_extractor
from live_models import build_live

from transformers_fastconformer import diarize, transcribe_speakers
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CLIP_PATHS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sortformer")
    build_diarizer().save_pretrained(folder)
    make_extractor().save_pretrained(folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fastconformer", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_rttm_and_json(monkeypatch, capsys, checkpoint: Path, tmp_path: Path) -> None:
    clip = tmp_path / "a meeting.wav"
    shutil.copy(CLIP_PATHS[0], clip)
    expected = diarize(clip, checkpoint, device="cpu")
    assert run(monkeypatch, "diarize", clip, "--model", checkpoint, "--device", "cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected.turns) > 0
    turn = expected.turns[0]
    assert lines[0] == (
        f"SPEAKER a_meeting 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> speaker_{turn.speaker} <NA> <NA>"
    )
    output = tmp_path / "out"
    arguments = (
        "--model",
        checkpoint,
        "--format",
        "json",
        "--output_dir",
        output,
        "--latency",
        "low",
        "--turns",
        "dihard3",
    )
    assert run(monkeypatch, "diarize", clip, CLIP_PATHS[1], *arguments) == 0
    content = json.loads((output / "a meeting.json").read_text())
    assert content["duration_seconds"] == expected.duration_seconds
    assert {turn["speaker"] for turn in content["turns"]} == set(content["speakers"])
    assert len(list(output.iterdir())) == 2
    (output / "a meeting.json").write_text("kept")
    capsys.readouterr()
    assert run(monkeypatch, "diarize", clip, *arguments) == 0
    assert "1 of 1 finished before" in capsys.readouterr().err
    assert (output / "a meeting.json").read_text() == "kept"
    assert run(monkeypatch, "diarize", clip, *arguments, "--overwrite") == 0
    assert json.loads((output / "a meeting.json").read_text()) == content
    assert run(monkeypatch, "diarize", clip, "--model", checkpoint, "--overwrite") == 2


def test_what_fails(monkeypatch, capsys, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    assert run(monkeypatch, "diarize", tmp_path / "text.wav", CLIP_PATHS[0], "--model", checkpoint) == 1
    printed = capsys.readouterr()
    assert "text.wav" in printed.err
    assert "SPEAKER" in printed.out
    assert run(monkeypatch, "diarize", CLIP_PATHS[0], "--model", "demo") == 2
    assert "expected 'fastconformer_diarization', a Sortformer" in capsys.readouterr().err
    assert run(monkeypatch, "diarize", CLIP_PATHS[0], "--model", checkpoint, "--latency", "fast") == 2
    assert run(monkeypatch, "diarize", CLIP_PATHS[0], "--model", checkpoint, "--turns", "ami") == 2


@pytest.mark.parametrize("form", ["json", "srt", "vtt", "rttm"])
def test_transcripts_say_who_speaks(monkeypatch, capsys, checkpoint: Path, form: str) -> None:
    arguments = ("transcribe", CLIP_PATHS[0], "--model", "demo", "--diarize", checkpoint, "--format", form)
    assert run(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    if form == "json":
        content = json.loads(printed)
        assert all(word["speaker"].startswith("speaker_") for word in content["words"])
        assert all(segment["speaker"].startswith("speaker_") for segment in content["segments"])
        assert content["options"]["diarize"] == str(checkpoint)
    mark = {"json": '"speaker"', "srt": "[speaker_", "vtt": "<v speaker_", "rttm": " speaker_"}[form]
    assert mark in printed


def test_speakers_belong_to_formats_with_times(monkeypatch, capsys, checkpoint: Path) -> None:
    assert run(monkeypatch, "transcribe", CLIP_PATHS[0], "--model", "demo", "--diarize", checkpoint) == 2
    assert "--diarize belongs to --format" in capsys.readouterr().err
    assert run(monkeypatch, "transcribe", CLIP_PATHS[0], "--model", "demo", "--diarize_latency", "low") == 2
    assert "--diarize_latency belongs to --diarize." in capsys.readouterr().err


@pytest.mark.parametrize("form", ["json", "srt"])
def test_a_multi_talker_model_hears_each_speaker(monkeypatch, capsys, checkpoint: Path, tmp_path: Path, form) -> None:
    folder = tmp_path / "multi-talker"
    model, processor = build_live("rnnt", has_speaker_kernel=True, has_background_kernel=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (tmp_path / "text.wav").write_text("not audio")
    arguments = ("transcribe", CLIP_PATHS[0], "--model", folder, "--diarize", checkpoint, "--device", "cpu")
    assert run(monkeypatch, *arguments, "--format", form) == 0
    printed = capsys.readouterr().out
    expected = transcribe_speakers(CLIP_PATHS[0], (model, processor), checkpoint).join()
    if form == "json":
        content = json.loads(printed)
        words = [(word["word"], word["speaker"]) for word in content["words"]]
        assert words == [(word["word"], word["speaker"]) for word in expected.timestamps["word"]]
        assert len({speaker for _, speaker in words}) > 1
        assert run(monkeypatch, *arguments, tmp_path / "text.wav", "--format", form) == 1
        printed = capsys.readouterr()
        assert "text.wav" in printed.err
        assert json.loads(printed.out.splitlines()[0])["words"] == content["words"]
        assert run(monkeypatch, *arguments[:-1], "cpu,cpu", "--format", form) == 2
        assert "one device for a multi-talker model" in capsys.readouterr().err
    else:
        assert "[speaker_" in printed


def test_a_model_of_speakers_does_not_transcribe(monkeypatch, capsys, checkpoint: Path) -> None:
    assert run(monkeypatch, "transcribe", CLIP_PATHS[0], "--model", checkpoint) == 2
    assert "It tells speakers apart: see diarize(), `fastconformer diarize`" in " ".join(
        capsys.readouterr().err.split()
    )
