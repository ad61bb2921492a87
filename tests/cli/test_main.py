"""The `fastconformer` command as a user meets it: output, exit codes, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import transformers_fastconformer.cli.convert as convert_module
from transformers_fastconformer import __version__
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.nemo.reference import INSTALL_NEMO

TEXT = "three one four one five nine"


def test_the_command_is_declared() -> None:
    (script,) = entry_points(group="console_scripts", name="fastconformer")
    assert script.load() is main
    assert Path(sys.executable).with_name("fastconformer").exists()


@pytest.mark.slow  # it imports everything once more
def test_the_command_is_installed() -> None:
    script = Path(sys.executable).with_name("fastconformer")
    result = subprocess.run([str(script), "--version"], capture_output=True, text=True)
    assert result.stdout.strip() == __version__


def test_version_and_help(run_command: Callable[..., Any]) -> None:
    assert run_command("--version").stdout.strip() == __version__
    help_text = run_command("--help").stdout
    for name in ("transcribe", "convert", "demo"):
        assert name in help_text


@pytest.mark.parametrize("head", ["auto", "ctc", "transducer"])
def test_transcribe_text(run_command: Callable[..., Any], head: str) -> None:
    result = run_command("transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--head", head)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == TEXT


@pytest.mark.parametrize("options", [["--chunk_length_s", "2"], ["--chunk_length_s", "3", "--stride_length_s", "1"]])
def test_transcribe_in_chunks(run_command: Callable[..., Any], options: list[str]) -> None:
    result = run_command("transcribe", str(CLIP_PATHS[0]), "--model", "demo", *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == TEXT


def test_transcribe_to_subtitles(run_command: Callable[..., Any]) -> None:
    result = run_command("transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--format", "srt")
    assert result.returncode == 0, result.stderr
    number, times, text = result.stdout.splitlines()[:3]
    assert number == "1"
    assert times.startswith("00:00:00,")
    assert " --> 00:00:0" in times
    assert text == TEXT
    result = run_command("transcribe", *map(str, CLIP_PATHS), "--model", "demo", "--format", "vtt")
    assert result.returncode == 2
    assert "--format vtt takes one file at a time; found 2." in result.stderr


def test_transcribe_several_files_as_json(run_command: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    assert run_command("convert", "--model", str(CHECKPOINT_PATH), "--output_dir", str(folder)).returncode == 0
    paths = [str(path) for path in CLIP_PATHS]
    result = run_command("transcribe", *paths, "--model", str(folder), "--format", "json", "--batch_size", "1")
    assert result.returncode == 0, result.stderr
    items = [json.loads(line) for line in result.stdout.splitlines()]
    assert [item["file"] for item in items] == paths
    for item in items:
        words = item["timestamps"]["word"]
        assert " ".join(word["word"] for word in words) == item["text"]
        assert all(0 <= word["start"] <= word["end"] <= item["duration_seconds"] + 0.2 for word in words)
        assert [word["start"] for word in words] == sorted(word["start"] for word in words)


def test_a_file_that_is_no_audio_does_not_cost_the_others(run_command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    first, second = (str(path) for path in CLIP_PATHS[:2])
    for batch_size in ("1", "8"):
        arguments = ("transcribe", first, "text.wav", second, first, "--model", "demo", "--batch_size", batch_size)
        result = run_command(*arguments, folder=tmp_path)
        assert result.returncode == 1
        assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == [first, second, first]
        errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert "'text.wav' cannot be decoded" in errors[0]


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (1, ["transcribe", "missing.wav", "--model", "demo"], "'missing.wav' does not exist"),
        (1, ["transcribe", "text.wav", "--model", "demo"], "text.wav"),
        (2, ["transcribe", str(CLIP_PATHS[0]), "--model", "missing.nemo"], "'missing.nemo' does not exist"),
        (
            2,
            ["transcribe", str(CLIP_PATHS[0]), "--model", "./missing"],
            "'./missing' does not exist; expected a folder",
        ),
        (2, ["transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--language", "de-DE"], "language='de-DE'"),
        (2, ["transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--source_lang", "de"], "source_lang='de'"),
        (2, ["transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--no_pnc"], "pnc=False is not supported"),
        (2, ["transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--stride_length_s", "1"], "needs chunk_length_s"),
        (1, ["convert", "--model", "text.nemo", "--output_dir", "out"], "not a .nemo archive"),
        (2, ["convert", "--model", str(CHECKPOINT_PATH), "--output_dir", "full"], "is not empty"),
        (2, ["convert"], "nothing to do"),
        (2, ["convert", "--output_dir", "out", "--device", "cpu"], "give --verify too"),
        (2, ["convert", "--output_dir", "out", "--audio", str(CLIP_PATHS[0])], "give --verify too"),
        (2, ["transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--device", "nodevice"], "device='nodevice'"),
    ],
)
def test_errors_are_one_clear_line(
    run_command: Callable[..., Any], code: int, arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "text.nemo").write_text("no archive")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    result = run_command(*arguments, folder=tmp_path)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "arguments", "missing", "message"),
    [
        (3, [], "nemo", "pip install 'transformers-fastconformer[nemo]'"),
        (2, ["--audio", "missing.wav"], None, "'missing.wav' does not exist"),
        (2, ["--device", "nodevice"], None, "device='nodevice' is not available"),
    ],
)
def test_what_a_verification_needs_is_checked_before_anything_is_written(
    run_command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    arguments: list[str],
    missing: str | None,
    message: str,
    tmp_path: Path,
) -> None:
    def require_nemo() -> None:
        if missing == "nemo":
            raise ImportError(f"NeMo is not installed: {INSTALL_NEMO}")

    monkeypatch.setattr(convert_module, "require_nemo", require_nemo)
    result = run_command("convert", "--verify", "--output_dir", "out", *arguments, folder=tmp_path)
    assert result.returncode == code
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_convert_refuses_to_do_nothing_quietly(run_command: Callable[..., Any], tmp_path: Path) -> None:
    result = run_command("convert", "--model", str(CHECKPOINT_PATH), folder=tmp_path)
    assert result.returncode == 2
    assert "--output_dir" in result.stderr
