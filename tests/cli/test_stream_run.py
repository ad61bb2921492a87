"""Runs of `fastconformer stream` that end otherwise than by the end of their audio, and runs by the clock."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from microphones import FakeMicrophones

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.cli import stream as command
from transformers_fastconformer.cli import stream_run, stream_sources
from transformers_fastconformer.cli.stream_queue import PieceQueue
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.streaming.engine import StreamingEngine

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

CLIP = str(CLIP_PATHS[0])
TEXT = "three one four one five nine"
RATE = 16000
Run = Callable[..., Any]


class FakeClock(stream_sources.Clock):
    """A clock that goes on by itself only while somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    found = FakeClock()
    monkeypatch.setattr(command, "Clock", lambda: found)
    return found


def stream(run_command: Run, *arguments: str) -> Any:
    return run_command("stream", *arguments, "--model", "demo", "--device", "cpu")


def send_when(number: int, condition: Callable[[], bool]) -> threading.Thread:
    """A thread that sends this process a signal as soon as a condition holds."""

    def work() -> None:
        end = time.monotonic() + 60
        while not condition() and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def open_pipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Standard input that has the clip as raw samples, and does not end."""
    reading, writing = os.pipe()
    file = os.fdopen(reading, "rb")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=file, isatty=lambda: False))
    content = (np.pad(read_audio(CLIP), (0, RATE)) * 32767).astype("<i2").tobytes()
    threading.Thread(target=lambda: os.write(writing, content), daemon=True).start()
    yield content
    os.close(writing)


@pytest.mark.parametrize(
    ("name", "code", "line"), [("SIGINT", 130, "Interrupted."), ("SIGTERM", 143, "Ended by SIGTE")]
)
def test_a_signal_ends_a_stream_and_its_transcript_is_written(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_pipe: Any, name: str, code: int, line: str
) -> None:
    heard = [0.0]
    step = StreamingEngine.step

    def noting(engine: StreamingEngine, samples: Any) -> Any:
        updates = step(engine, samples)
        heard[0] = max(update.heard_seconds for update in updates.values())
        return updates

    monkeypatch.setattr(StreamingEngine, "step", noting)
    thread = send_when(getattr(signal, name), lambda: heard[0] > 3.3)
    before = signal.getsignal(getattr(signal, name))
    result = stream(run_command, "-", "--encoding", "s16le", "--output_dir", str(tmp_path), "--format", "txt,srt")
    thread.join()
    assert result.returncode == code, result.stderr
    assert line in result.stderr
    assert result.stdout == TEXT + "\n"
    assert (tmp_path / "stdin.txt").read_text() == TEXT + "\n"
    assert signal.getsignal(getattr(signal, name)) == before


def test_a_microphone_is_heard_to_the_moment_of_ctrl_c(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that waits for the model when the signal comes is still transcribed."""
    samples = np.repeat(np.pad(read_audio(CLIP), (0, 8000))[:, None], 2, axis=1)
    module = FakeMicrophones(samples, then=lambda: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    result = stream(run_command, "microphone", "--json")
    assert result.returncode == 130
    assert json.loads(result.stdout.splitlines()[-1])["text"] == TEXT
    assert module.is_closed


def test_a_second_ctrl_c_ends_at_once(run_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def slow(engine: StreamingEngine, stream_id: int, samples: Any = None) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(StreamingEngine, "finish", slow)
    result = stream(run_command, CLIP, "--output_dir", str(tmp_path / "out"))
    assert result.returncode == 130
    assert not (tmp_path / "out" / "clip-en.txt").exists()


def test_part_of_a_file_is_not_taken_for_all_of_it(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StreamingEngine.step
    sent: list[int] = []

    def interrupted(engine: StreamingEngine, samples: Any) -> Any:
        if not sent:
            sent.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return step(engine, samples)

    path = str(tmp_path / "long.wav")
    soundfile.write(path, np.tile(read_audio(CLIP), 10), RATE)
    options = [path, "--output_dir", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(StreamingEngine, "step", interrupted)
        assert stream(run_command, *options).returncode == 130
    text = (tmp_path / "out" / "long.txt").read_text()
    assert text.startswith("three one")
    assert len(text.split()) < 30
    result = stream(run_command, *options)
    assert result.returncode == 1
    assert re.search(r"was made from '.*long.wav' \(duration \d.*s\), and not from", result.stderr)
    assert len(stream(run_command, *options, "--overwrite").stdout.split()) > 50


def test_a_reader_that_has_gone_ends_the_stream_and_the_files_are_whole(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers_fastconformer.cli.streams.silence_standard_output", lambda: None)

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    set_input = types.SimpleNamespace(buffer=io.BytesIO(Path(CLIP).read_bytes()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", set_input)
    monkeypatch.setattr(sys, "stdout", Gone())
    result = stream(run_command, "-", "--output_dir", str(tmp_path))
    assert (result.returncode, result.stderr) == (1, "")
    assert (tmp_path / "stdin.txt").read_text().startswith("three")


def test_audio_that_breaks_off_is_an_error_after_its_text(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.pad(read_audio(CLIP), (0, 4000)).astype("<f4")
    broken = samples.copy()
    broken[-1] = np.nan
    for content, message in (
        (samples.tobytes()[:-1], "the standard input is cut off: 1 bytes are missing"),
        (np.concatenate([samples, broken]).tobytes(), "'-' has the value nan at sample"),
    ):
        stdin = types.SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", stdin)
        result = stream(run_command, "-", "--encoding", "f32le", "--output_dir", str(tmp_path), "--overwrite")
        assert result.returncode == 1
        assert message in result.stderr
        assert result.stdout.startswith(TEXT)
        assert (tmp_path / "stdin.txt").read_text() == result.stdout  # it cannot be had again
    path = tmp_path / "cut.wav"
    path.write_bytes(Path(CLIP).read_bytes()[:-5000])
    result = stream(run_command, str(path), "--output_dir", str(tmp_path))
    assert result.returncode == 1
    assert "is cut off" in result.stderr
    assert not (tmp_path / "cut.txt").exists()


def test_realtime_goes_by_the_clock_and_tells_the_lag(run_command: Run, clock: FakeClock) -> None:
    result = stream(run_command, CLIP, "--realtime")
    seconds = len(read_audio(CLIP)) / RATE
    assert (result.returncode, result.stdout) == (0, TEXT + "\n"), result.stderr
    assert clock.seconds == pytest.approx(seconds)
    assert re.fullmatch(r"Lag: \d\.\d\d s at the end, \d\.\d\d s at most\.\n", result.stderr.splitlines(True)[-1])
    assert not stream(run_command, CLIP).stderr


def test_a_machine_that_is_too_slow_says_so(
    run_command: Run, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StreamingEngine.step

    def slow(engine: StreamingEngine, samples: Any) -> Any:
        clock.seconds += 0.1  # for 0.04 s of audio
        return step(engine, samples)

    monkeypatch.setattr(StreamingEngine, "step", slow)
    result = stream(run_command, CLIP, "--realtime", "--json")
    assert result.returncode == 0, result.stderr
    assert "s late and falls behind" in result.stderr
    final = json.loads(result.stdout.splitlines()[-1])
    assert final["max_lag_ms"] > 1000
    assert final["text"] == TEXT


def test_a_pipe_that_pauses_is_no_lag(run_command: Run, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO((read_audio(CLIP) * 32767).astype("<i2").tobytes())
    get, has_waited = PieceQueue.get, threading.Event()

    def note(queue: PieceQueue, timeout_seconds: float) -> Any:
        piece = get(queue, timeout_seconds)
        if piece is None:
            has_waited.set()
        return piece

    def read(size: int) -> bytes:
        found = content.read(size)
        if not found:
            for seconds in (20.0, 0.0):  # the model has done all there was; then it waits for what does not come
                has_waited.clear()
                has_waited.wait(60)
                clock.seconds += seconds
        return found

    monkeypatch.setattr(PieceQueue, "get", note)
    stdin = types.SimpleNamespace(buffer=types.SimpleNamespace(read=read), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    result = stream(run_command, "-", "--encoding", "s16le", "--realtime")
    assert (result.returncode, result.stdout) == (0, TEXT + "\n"), result.stderr
    lag = re.search(r"Lag: 0\.00 s at the end, (.*) s at most", result.stderr)
    assert lag, result.stderr
    assert float(lag.group(1)) < 5


def test_lost_audio_is_told(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.repeat(np.tile(read_audio(CLIP), 3)[:, None], 2, axis=1)
    done = threading.Event()
    module = FakeMicrophones(samples, then=done.set, overflow_blocks=(4,), ends=True)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(stream_sources, "MICROPHONE_QUEUE_SECONDS", 0.5)
    step = StreamingEngine.step

    def after_the_recording(engine: StreamingEngine, samples: Any) -> Any:
        done.wait(10)
        return step(engine, samples)

    monkeypatch.setattr(StreamingEngine, "step", after_the_recording)
    result = stream(run_command, "microphone")
    assert "Some audio was lost: the buffer of the microphone ran over." in result.stderr
    assert re.search(r"Audio was lost, \d\.\d s by now", result.stderr)


def test_the_model_is_warm_before_somebody_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[int] = []
    engine: Any = types.SimpleNamespace(
        latency_ms=500.0,
        processor=types.SimpleNamespace(feature_extractor=types.SimpleNamespace(sampling_rate=RATE)),
        open=lambda: 7,
        finish=lambda stream_id, samples: finished.extend([stream_id, len(samples)]),
    )
    stream_run.StreamRun._warm_up(types.SimpleNamespace(), engine)  # type: ignore[arg-type]
    assert finished == [7, RATE]
