"""`fastconformer transcribe` with many files: inputs of every kind, folders of output, what is broken, Ctrl-C."""

from __future__ import annotations

import errno
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import transformers_fastconformer.cli.folder_output as outputs_module
import transformers_fastconformer.cli.transcribe_run as transcribe_module
import transformers_fastconformer.inference.strategy as strategy_module
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.cli.transcribe_inputs import find_inputs
from transformers_fastconformer.cli.transcribe_sources import RECORD_NAME
from transformers_fastconformer.demonstration import CLIP_PATHS

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

TEXTS = ("three one four one five nine", "two seven one eight zero six")
CLIPS = list(CLIP_PATHS)
Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with `in/a/x.wav`, `in/b/x.wav` and `in/b/c/y.wav`: the first clip, the second, the first."""
    for name, clip in (("a/x", 0), ("b/x", 1), ("b/c/y", 0)):
        path = tmp_path / "in" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIPS[clip], path)
    (tmp_path / "in" / "b" / "notes.txt").write_text("no audio")
    (tmp_path / "in" / "b" / "._x.wav").write_text("hidden")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def transcribe(run_command: Run, *arguments: str) -> Any:
    return run_command("transcribe", *arguments, "--model", "demo")


def below(folder: Path) -> list[str]:
    """Files, but for the record of what they were made from."""
    return [name for name in everything_in(folder) if (folder / name).is_file() and name != RECORD_NAME]


def everything_in(folder: Path) -> list[str]:
    """Files and folders, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def errors_of(result: Any) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error:")]


def write_manifest(path: Path, *entries: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")


# Inputs


def test_a_folder_keeps_its_structure_in_all_formats(run_command: Run, folder: Path) -> None:
    result = transcribe(run_command, "in", "--output_dir", "out", "--format", "txt,json", "--format", "srt")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert below(folder / "out") == sorted(
        f"{name}.{suffix}" for name in ("a/x", "b/x", "b/c/y") for suffix in ("txt", "json", "srt")
    )
    for name, text in (("a/x", TEXTS[0]), ("b/x", TEXTS[1]), ("b/c/y", TEXTS[0])):
        assert (folder / "out" / f"{name}.txt").read_text() == text + "\n"
        found = json.loads((folder / "out" / f"{name}.json").read_text())
        assert " ".join(word["word"] for word in found["words"]) == found["text"] == text
        assert found["file"] == f"in/{name}.wav"
        assert found["strategy"] == "full"
        assert found["confidence"] == min(word["confidence"] for word in found["words"])
        assert found["model"]["name"] == "demo"
        assert found["model"]["head"] == "transducer"
        assert found["options"] == {
            "strategy": "auto", "language": None, "chunk_length_s": None, "stride_length_s": None
        }  # fmt: skip
        assert text in (folder / "out" / f"{name}.srt").read_text()
    assert "3 transcribed" in result.stderr
    assert "full 3" in result.stderr


def test_the_strategy_of_a_long_file_is_told_with_its_reason(
    run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy_module, "MAX_WHOLE_SECONDS", 5.0)
    samples = np.concatenate([np.pad(read_audio(clip), (0, 16000)) for clip in CLIPS] * 6)
    soundfile.write(folder / "long.wav", samples, 16000)
    result = transcribe(run_command, "long.wav")
    assert result.stdout.strip() == " ".join(TEXTS * 6)
    assert "long.wav: strategy local: others would take longer by estimate, 'full' " in result.stderr
    asked = transcribe(run_command, "long.wav", "--chunk_length_s", "5")
    assert "long.wav: strategy chunked.\n" in asked.stderr
    assert "strategy" not in transcribe(run_command, "in/a/x.wav").stderr


def test_patterns_keep_the_structure_below_them(run_command: Run, folder: Path) -> None:
    result = transcribe(run_command, "in/**/*.wav", "--output_dir", "out")
    assert result.returncode == 0, result.stderr
    assert below(folder / "out") == ["a/x.txt", "b/c/y.txt", "b/x.txt"]
    result = transcribe(run_command, "in/b/*.wav", "--output_dir", "other")
    assert below(folder / "other") == ["x.txt"]


def test_a_file_whose_name_is_a_pattern_is_a_file(run_command: Run, folder: Path) -> None:
    shutil.copy(CLIPS[0], folder / "[x].wav")
    assert transcribe(run_command, "[x].wav").stdout == TEXTS[0] + "\n"


def test_the_order_of_the_standard_output_is_that_of_the_inputs(run_command: Run, folder: Path) -> None:
    shutil.copy(CLIPS[0], folder / "long.wav")
    short = read_audio(CLIPS[0])[:12000]
    soundfile.write(folder / "short.wav", short, 16000)
    for options in (["--batch_size", "1"], ["--batch_size", "4", "--num_workers", "3"]):
        result = transcribe(run_command, "short.wav", "in/b", "long.wav", "short.wav", *options)
        assert result.returncode == 0, result.stderr
        titles = [line.partition(":")[0] for line in result.stdout.splitlines()]
        assert titles == ["short.wav", "in/b/x.wav", "in/b/c/y.wav", "long.wav", "short.wav"]


def test_the_standard_input_is_a_file(run_command: Run, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    give(CLIPS[0].read_bytes())
    assert transcribe(run_command, "-").stdout == TEXTS[0] + "\n"
    give(CLIPS[0].read_bytes())
    result = transcribe(run_command, "-", "--format", "srt", "--output_dir", "out")
    assert result.returncode == 0, result.stderr
    assert below(folder / "out") == ["stdin.srt"]
    give(b"no audio")
    result = transcribe(run_command, "-")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "error: the standard input cannot be decoded" in result.stderr
    give(b"")
    assert "the standard input is empty (0 bytes)" in transcribe(run_command, "-").stderr
    assert "can be given once" in transcribe(run_command, "-", "-").stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_are_files(run_command: Run, folder: Path) -> None:
    """As shells make of `<(command)`; they can be read once."""
    os.mkfifo(folder / "pipe")
    writer = threading.Thread(target=lambda: (folder / "pipe").write_bytes(CLIPS[0].read_bytes()), daemon=True)
    writer.start()
    result = transcribe(run_command, "pipe", "in/b/x.wav")
    writer.join()
    assert result.stdout == f"pipe: {TEXTS[0]}\nin/b/x.wav: {TEXTS[1]}\n"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing on the standard error."""


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder / "in"))) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_addresses_are_downloaded(run_command: Run, server: str, folder: Path) -> None:
    result = transcribe(
        run_command, f"{server}/a/x.wav?key=1", f"{server}/missing.wav", f"{server}/b/notes.txt", "--output_dir", "out"
    )
    assert result.returncode == 1
    assert below(folder / "out") == ["x.txt"]
    assert (folder / "out" / "x.txt").read_text() == TEXTS[0] + "\n"
    missing, notes = errors_of(result)
    assert f"{server}/missing.wav cannot be downloaded" in missing
    assert "404" in missing
    assert f"'{server}/b/notes.txt' cannot be decoded" in notes
    result = transcribe(run_command, f"{server}/a/x.wav", f"{server}/missing.wav", "--channel", "each")
    assert result.stdout == f"{server}/a/x.wav (channel 0): {TEXTS[0]}\n"
    assert f"{server}/missing.wav cannot be downloaded" in result.stderr
    result = transcribe(run_command, "http://127.0.0.1:9/x.wav")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "http://127.0.0.1:9/x.wav cannot be downloaded" in result.stderr


def test_channels(run_command: Run, folder: Path) -> None:
    left, right = (read_audio(path) for path in CLIPS[:2])
    stereo = np.zeros((max(len(left), len(right)), 2), dtype=np.float32)
    stereo[: len(left), 0], stereo[: len(right), 1] = left, right
    soundfile.write(folder / "two.wav", stereo, 16000)
    assert transcribe(run_command, "two.wav", "--channel", "0").stdout == TEXTS[0] + "\n"
    assert transcribe(run_command, "two.wav", "--channel", "1").stdout == TEXTS[1] + "\n"
    result = transcribe(run_command, "two.wav", "--channel", "each")
    assert result.stdout.splitlines() == [f"two.wav (channel {number}): {TEXTS[number]}" for number in (0, 1)]
    result = transcribe(
        run_command, "two.wav", "in/a", "--channel", "each", "--output_dir", "out", "--format", "json,ctm"
    )
    assert result.returncode == 0, result.stderr
    assert below(folder / "out") == sorted(
        f"{name}.{suffix}" for name in ("two.channel0", "two.channel1", "x") for suffix in ("ctm", "json")
    )
    assert json.loads((folder / "out" / "two.channel1.json").read_text())["channel"] == 1
    assert {line.split()[1] for line in (folder / "out" / "two.channel1.ctm").read_text().splitlines()} == {"2"}
    result = transcribe(run_command, "two.wav", "--channel", "2")
    assert "channels=2 of 'two.wav' does not exist" in result.stderr
    assert "--channel both is not supported" in transcribe(run_command, "two.wav", "--channel", "both").stderr


def test_manifests(run_command: Run, folder: Path) -> None:
    """Parts of one recording whose places are known: every line comes back with its fields and what was said."""
    clips = [read_audio(path) for path in CLIPS[:2]]
    soundfile.write(folder / "in" / "joined.wav", np.concatenate(clips), 16000)
    seconds = [len(clip) / 16000 for clip in clips]
    entries: list[dict[str, Any]] = [
        {"audio_filepath": "joined.wav", "offset": seconds[0], "duration": seconds[1], "text": TEXTS[1], "who": "é"},
        {"audio_filepath": "a/x.wav", "duration": seconds[0]},
        {"audio_filepath": str(folder / "in" / "joined.wav"), "offset": 0, "duration": seconds[0], "text": "wrong"},
    ]
    write_manifest(folder / "in" / "calls.jsonl", *entries)
    expected = [{**entry, "pred_text": TEXTS[number]} for entry, number in zip(entries, (1, 0, 0), strict=True)]
    result = transcribe(run_command, "in/calls.jsonl")
    assert result.returncode == 0, result.stderr
    assert [json.loads(line) for line in result.stdout.splitlines()] == expected
    result = transcribe(run_command, "in/calls.jsonl", "--output_dir", "out", "--format", "jsonl,ctm")
    assert result.returncode == 0, result.stderr
    assert [json.loads(line) for line in (folder / "out" / "calls.jsonl").read_text().splitlines()] == expected
    first, second = seconds[0], sum(seconds)
    parts = [f"joined_{first:g}-{second:g}.ctm", f"joined_0-{first:g}.ctm"]
    assert below(folder / "out") == sorted(["calls.jsonl", "a/x.ctm", *parts])
    # Times are those of the recording.
    starts = [float(line.split()[2]) for line in (folder / "out" / parts[0]).read_text().splitlines()]
    assert all(first - 0.001 <= start < second for start in starts)
    assert len(starts) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "'m.jsonl', line 1 is not JSON"),
        ('["x.wav"]', "expected a JSON object with 'audio_filepath'"),
        ('{"text": "x"}', "expected a JSON object with 'audio_filepath'"),
        ('{"audio_filepath": "in/a/x.wav", "offset": "1"}', "line 1: offset='1' is not supported; expected seconds"),
        ('{"audio_filepath": "in/a/x.wav", "duration": 0}', "line 1: duration=0.0 of"),
        ('{"audio_filepath": "in/a/x.wav", "offset": -1}', "line 1: offset=-1.0 of"),
        ('{"audio_filepath": "in/a/x.wav", "duration": 1e-9}', "'m.jsonl', line 1: offset=0.0, duration=1e-09 of"),
        ('{"audio_filepath": "in/a/x.wav", "duration": 1e-9}', "is an empty part"),
        (
            '{"audio_filepath": "in/a/x.wav", "offset": 1, "duration": 30}',
            "'m.jsonl', line 1: offset=1.0, duration=30",
        ),
        ('{"audio_filepath": "in/a/missing.wav", "duration": 3}', "'m.jsonl', line 1: 'in/a/missing.wav' does not"),
        ('{"audio_filepath": "in/b/notes.txt", "duration": 3}', "line 1: 'in/b/notes.txt' cannot be decoded"),
        ('{"audio_filepath": "http://127.0.0.1:9/x.wav"}', "'m.jsonl', line 1: http://127.0.0.1:9/x.wav cannot be"),
        ("", "'m.jsonl' is empty"),
    ],
)
def test_manifests_that_are_none(run_command: Run, folder: Path, line: str, message: str) -> None:
    (folder / "m.jsonl").write_text(line + "\n")
    result = transcribe(run_command, "m.jsonl")
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


# Outputs


def test_what_is_finished_is_not_done_again(run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("in", "--output_dir", "out", "--format", "txt,srt")
    assert transcribe(run_command, *arguments).returncode == 0
    (folder / "out" / "a" / "x.txt").write_text("mended by hand\n")
    (folder / "out" / "b" / "x.srt").unlink()
    result = transcribe(run_command, *arguments)
    assert result.returncode == 0, result.stderr
    assert "2 of 3 finished before" in result.stderr
    assert "1 transcribed" in result.stderr
    assert "Outputs in 'out' that were made or changed by hand" in result.stderr
    assert (folder / "out" / "a" / "x.txt").read_text() == "mended by hand\n"
    assert (folder / "out" / "b" / "x.srt").is_file()
    with monkeypatch.context() as patch:  # nothing to do: no model is loaded
        patch.setattr(transcribe_module, "load_model", None)
        assert transcribe(run_command, *arguments).returncode == 0
    result = transcribe(run_command, *arguments, "--overwrite")
    assert "3 transcribed" in result.stderr
    assert (folder / "out" / "a" / "x.txt").read_text() == TEXTS[0] + "\n"


def test_everything_in_a_folder_twice(run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `transcribe * --output_dir .`, whose outputs lie next to the inputs."""
    monkeypatch.chdir(folder / "in" / "a")
    options = ("--output_dir", ".", "--format", "txt,jsonl,json,srt")
    assert transcribe(run_command, "x.wav", *options).returncode == 0
    everything = sorted(os.listdir())
    result = transcribe(run_command, *(name for name in everything if not name.startswith(".")), *options)
    assert result.returncode == 0, result.stderr
    assert "'x.txt' is an output of an earlier run: it is passed over." in result.stderr
    assert "1 of 1 finished before" in result.stderr
    assert sorted(os.listdir()) == everything


def test_a_manifest_is_taken_up_where_it_was_left(run_command: Run, folder: Path) -> None:
    entries = [{"audio_filepath": f"in/{name}.wav", "speaker": "ä\u2028"} for name in ("a/x", "b/x", "b/c/y")]
    (folder / "in" / "b" / "x.wav").rename(folder / "away.wav")
    write_manifest(folder / "m.json", *entries)
    arguments = ("m.json", "--output_dir", "out")
    result = transcribe(run_command, *arguments)
    assert result.returncode == 1
    assert "2 transcribed" in result.stderr
    assert below(folder / "out") == ["m.jsonl", "m.jsonl.part"]
    lines = (folder / "out" / "m.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["audio_filepath"] for line in lines[:-1]] == ["in/a/x.wav", "in/b/c/y.wav"]
    # As a process that was killed while it wrote leaves it: the last of two lines is half a line.
    unfinished = folder / "out" / "m.jsonl.part"
    unfinished.write_text(unfinished.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    (folder / "away.wav").rename(folder / "in" / "b" / "x.wav")
    result = transcribe(run_command, *arguments)
    assert result.returncode == 0, result.stderr
    assert "1 of 3 finished before" in result.stderr
    assert below(folder / "out") == ["m.jsonl"]
    found = [json.loads(line) for line in (folder / "out" / "m.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    expected = [{**entry, "pred_text": TEXTS[number]} for entry, number in zip(entries, (0, 1, 0), strict=True)]
    assert found == expected
    assert "3 of 3 finished before" in transcribe(run_command, *arguments).stderr
    write_manifest(folder / "m.json", *entries[:2])
    result = transcribe(run_command, *arguments)
    assert "'out/m.jsonl' exists and holds other lines" in result.stderr
    assert transcribe(run_command, *arguments, "--overwrite").returncode == 0
    assert len((folder / "out" / "m.jsonl").read_text(encoding="utf-8").split("\n")) == 3


def test_a_manifest_is_in_its_place_when_the_run_has_come_to_its_end(
    run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"audio_filepath": f"in/{name}.wav"} for name in ("a/x", "b/x", "b/c/y")]
    write_manifest(folder / "m.jsonl", *entries)
    append, appended = outputs_module.FolderOutput._append, []

    def interrupted(*arguments: Any) -> None:
        if appended:
            raise KeyboardInterrupt
        appended.append(arguments)
        append(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(outputs_module.FolderOutput, "_append", interrupted)
        assert transcribe(run_command, "m.jsonl", "--output_dir", "out").returncode == 130
    assert below(folder / "out") == ["m.jsonl.part"]
    result = transcribe(run_command, "m.jsonl", "--output_dir", "out", "--overwrite")
    assert "3 transcribed" in result.stderr
    assert below(folder / "out") == ["m.jsonl"]
    assert len((folder / "out" / "m.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["in/a/x.wav", "in/b/x.wav"], "'in/a/x.wav' and 'in/b/x.wav' would both be written to 'out/x.txt'"),
        (2, ["in/a", "in/a/x.wav"], "would both be written to 'out/x.txt'"),
        (2, ["in", "--format", "docx"], "--format docx is not supported; expected some of txt, json"),
        (2, ["in", "--max_lines", "1"], "--max_lines belongs to --format srt, vtt, tsv; found --format txt"),
        (2, ["in", "--format", "srt", "--max_lines", "0"], "max_lines=0 is not supported"),
        (
            2,
            ["in", "--strategy", "full", "--chunk_length_s", "3"],
            "chunk_length_s=3.0 is not supported with strategy=",
        ),
        (2, ["in", "--batch_seconds", "0"], "batch_seconds=0.0 is not supported"),
        (2, ["in", "--device", "cpu,nodevice"], "device='nodevice' is not available"),
        (1, ["empty"], "'empty' has no audio in it"),
        (1, ["in/*.flac"], "'in/*.flac' matches no file"),
        (1, ["m.jsonl", "--format", "jsonl"], "'m.jsonl' does not exist; expected a manifest"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(
    run_command: Run, folder: Path, code: int, arguments: list[str], message: str
) -> None:
    (folder / "empty").mkdir()
    result = transcribe(run_command, *arguments, "--output_dir", "out")
    assert result.returncode == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (folder / "out").exists()


def test_the_standard_output_holds_one_format(run_command: Run, folder: Path) -> None:
    result = transcribe(run_command, "in/a/x.wav", "--format", "txt,json")
    assert "several formats need --output_dir" in result.stderr
    assert "--overwrite belongs to --output_dir" in transcribe(run_command, "in/a/x.wav", "--overwrite").stderr
    assert "tsv takes one file at a time; found 3" in transcribe(run_command, "in", "--format", "tsv").stderr
    result = transcribe(run_command, "in", "--format", "ctm")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["a/x"] * 6 + ["b/x"] * 6 + ["b/c/y"] * 6
    result = transcribe(run_command, "in/a/x.wav", "--format", "vtt", "--max_line_characters", "10")
    assert "three one\nfour one\n" in result.stdout


def test_an_input_is_not_written_over(run_command: Run, folder: Path) -> None:
    write_manifest(folder / "m.jsonl", {"audio_filepath": "in/a/x.wav"})
    before = (folder / "m.jsonl").read_text()
    result = transcribe(run_command, "m.jsonl", "--output_dir", ".")
    assert "'m.jsonl' would be written over, and is an input" in result.stderr
    assert (folder / "m.jsonl").read_text() == before
    result = transcribe(run_command, "in", "--output_dir", "m.jsonl")
    assert "'m.jsonl' is a file; expected a folder" in result.stderr


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(
    run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcribe_module, "load_model", None)
    monkeypatch.setattr(outputs_module.os, "access", lambda path, mode: path != folder)
    result = transcribe(run_command, "in", "--output_dir", "new/out")
    assert result.returncode == 2
    assert result.stderr == "error: 'new/out' cannot be written to; expected a folder with the right to write.\n"


# What goes wrong


def test_broken_files_stop_nothing_and_are_reported_at_the_end(run_command: Run, folder: Path) -> None:
    whole = CLIPS[0].read_bytes()
    (folder / "in" / "empty.wav").write_bytes(b"")
    (folder / "in" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "in" / "text.mp3").write_text("no audio")
    soundfile.write(folder / "in" / "nothing.wav", np.zeros(0, dtype=np.float32), 16000)
    soundfile.write(folder / "in" / "infinite.wav", np.full(16000, np.inf, dtype=np.float32), 16000, subtype="FLOAT")
    for workers in ("0", "2"):
        result = transcribe(
            run_command, "in", "missing.wav", "--output_dir", f"out{workers}", "--num_workers", workers
        )
        assert result.returncode == 1
        assert below(folder / f"out{workers}") == ["a/x.txt", "b/c/y.txt", "b/x.txt"]
        lines = result.stderr.splitlines()
        expected = (
            ("cut.wav'", "is cut off"),
            ("empty.wav'", "is empty (0 bytes)"),
            ("infinite.wav'", "has the value inf at sample 0"),
            ("nothing.wav'", "without samples"),
            ("text.mp3'", "cannot be decoded"),
            ("missing.wav'", "does not exist"),
        )
        assert len(lines) == len(expected) + 2
        for line, (name, reason) in zip(lines, expected, strict=False):
            assert line.startswith("error:")
            assert name in line
            assert reason in line
        assert lines[-2].startswith("3 transcribed")
        assert lines[-1] == "6 of 9 could not be transcribed."


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(
    run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write, written = Path.write_bytes, []

    def write(path: Path, content: bytes) -> int:
        if "out" in path.parts:
            written.append(path)
            if len(written) > 1:
                real_write(path, content[:3])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real_write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        result = transcribe(run_command, "in", "--output_dir", "out", "--batch_size", "1")
    assert result.returncode == 1
    (error,) = errors_of(result)
    assert "cannot be written: No space left on device" in error
    assert "error: out/" in error
    assert "Run the same command again to go on" in result.stderr
    assert len(everything_in(folder / "out")) == 3  # a folder, a file in it, and the record
    result = transcribe(run_command, "in", "--output_dir", "out")
    assert "1 of 3 finished before" in result.stderr
    assert len(below(folder / "out")) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the machine has no device that is always full")
def test_a_full_disk_behind_the_standard_output(
    run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        result = transcribe(run_command, "in/a/x.wav")
    assert result.returncode == 1
    assert result.stderr == "error: the standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_an_interrupt_ends_with_its_code(
    run_command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, devices: str
) -> None:
    write, written = outputs_module.WholeFiles.write, []

    def interrupted(self: Any, contents: dict[Path, str], announce: Callable[[], None]) -> None:
        if written:
            raise KeyboardInterrupt
        written.extend(contents)
        write(self, contents, announce)

    monkeypatch.setattr(outputs_module.WholeFiles, "write", interrupted)
    result = transcribe(run_command, "in", "--output_dir", "out", "--device", devices, "--batch_size", "1")
    assert result.returncode == 130
    assert "Interrupted." in result.stderr
    assert "1 transcribed" in result.stderr
    assert below(folder / "out") == [written[0].relative_to("out").as_posix()]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastconformer-model")]


@pytest.mark.slow
def test_ctrl_c(folder: Path) -> None:
    """The whole program, and a signal while it is at work."""
    (folder / "many").mkdir()
    for number in range(400):
        os.link(folder / "in" / "a" / "x.wav", folder / "many" / f"{number:03d}.wav")
    command = [sys.executable, "-m", "transformers_fastconformer.cli.main", "transcribe", "many", "--model", "demo"]
    options = ["--output_dir", "out", "--format", "txt,srt", "--batch_size", "1"]
    with subprocess.Popen(
        [*command, *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Where the tests run in the background the signal is ignored, and so it would be in the program.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline and not list((folder / "out").glob("*.srt")):
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Interrupted." in stderr
    texts = list((folder / "out").glob("*.txt"))
    assert 1 <= len(texts) < 400
    assert all(path.read_text() == TEXTS[0] + "\n" for path in texts)
    assert {path.suffix for path in (folder / "out").iterdir() if path.name != RECORD_NAME} <= {".txt", ".srt"}


def test_several_devices_share_the_files(run_command: Run, folder: Path) -> None:
    for number in range(12):
        shutil.copy(CLIPS[number % 2], folder / "in" / "a" / f"{number}.wav")
    result = transcribe(run_command, "in", "--output_dir", "out", "--device", "cpu,cpu", "--batch_size", "2")
    assert result.returncode == 0, result.stderr
    assert "15 transcribed" in result.stderr
    for number in range(12):
        assert (folder / "out" / "a" / f"{number}.txt").read_text() == TEXTS[number % 2] + "\n"


def test_names_of_inputs(folder: Path) -> None:
    write_manifest(
        folder / "in" / "m.jsonl",
        {"audio_filepath": "../x/y.wav"},
        {"audio_filepath": "/data/z.flac", "offset": 1.5},
        {"audio_filepath": "sub/z.flac", "offset": 0, "duration": 2.25},
    )
    arguments = ["in", "in/a/x.wav", "http://host/calls/no%201.mp3?x=1", "http://host", "in/m.jsonl"]
    found = find_inputs(arguments, "mix", folder)
    assert [item.name for item in found] == [
        *("a/x", "b/x", "b/c/y", "x", "no 1", "host"),
        *("y", "z_1.5", "sub/z_0-2.25"),
    ]
    assert [item.row for item in found if item.manifest is not None] == [0, 1, 2]
