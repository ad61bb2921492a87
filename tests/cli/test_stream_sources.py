"""Sources of live audio: files, pipes, microphones."""

from __future__ import annotations

import io
import os
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from microphones import FakeMicrophones

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.cli.exit_codes import InputError
from transformers_fastconformer.cli.stream_queue import Piece
from transformers_fastconformer.cli.stream_sources import Clock, PcmOptions, Source, find_source
from transformers_fastconformer.demonstration import CLIP_PATHS

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

RATE = 16000
CLIP = str(CLIP_PATHS[0])


class FakeClock(Clock):
    """A clock that goes on by itself only while somebody waits."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds


def open_source(argument: str, clock: Clock | None = None, realtime: bool = False, **options: Any) -> Source:
    channel, device = options.pop("channel", "mix"), options.pop("device", None)
    return find_source(argument, channel, PcmOptions(**options), device, realtime, clock or Clock())


def read(source: Source, sampling_rate: int = RATE, seen: Callable[[Piece], None] | None = None) -> np.ndarray:
    queue, rate = source.prepare(sampling_rate)
    assert rate == sampling_rate
    source.start()
    parts = [np.zeros(0, dtype=np.float32)]
    while not queue.is_done:
        piece = queue.get(10.0)
        if piece is not None:
            parts.append(piece.samples)
            if seen is not None:
                seen(piece)
    source.stop()
    if queue.error is not None:
        raise queue.error
    return np.concatenate(parts)


def set_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes, is_terminal: bool = False) -> None:
    stdin = types.SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: is_terminal)
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.parametrize("sampling_rate", [RATE, 8000])
def test_a_file_has_the_samples_that_other_readers_have(sampling_rate: int) -> None:
    pieces: list[Piece] = []
    found = read(open_source(CLIP), sampling_rate, pieces.append)
    assert np.array_equal(found, read_audio(CLIP, sampling_rate))
    assert {piece.spoken_seconds for piece in pieces} == {None}


def test_a_file_at_the_speed_of_the_clock() -> None:
    clock = FakeClock()
    pieces: list[Piece] = []
    source = open_source(CLIP, clock, realtime=True)
    assert source.is_live
    found = read(source, seen=pieces.append)
    assert np.array_equal(found, read_audio(CLIP))
    seconds = len(found) / RATE
    assert clock.seconds == pytest.approx(100 + seconds)
    ends = np.cumsum([piece.samples.shape[0] for piece in pieces]) / RATE
    assert [piece.spoken_seconds for piece in pieces] == pytest.approx((100 + ends).tolist())
    assert max(piece.samples.shape[0] for piece in pieces) == 640


def test_a_late_reader_does_not_move_the_time_at_which_words_were_spoken() -> None:
    clock = FakeClock()
    pieces: list[Piece] = []

    def see(piece: Piece) -> None:
        if not pieces:
            clock.seconds += 50.0  # the machine was busy
        pieces.append(piece)

    read(open_source(CLIP, clock, realtime=True), seen=see)
    assert pieces[-1].spoken_seconds == pytest.approx(100 + sum(piece.samples.shape[0] for piece in pieces) / RATE)


def test_the_end_stops_a_file_that_is_being_read() -> None:
    source = open_source(CLIP)
    queue, _ = source.prepare(RATE)
    source.start()
    assert queue.get(10.0) is not None
    source.stop()
    while queue.get(0.0) is not None:
        pass
    assert queue.is_done


@pytest.mark.parametrize("channel", ["mix", 1])
def test_raw_samples_of_the_standard_input(monkeypatch: pytest.MonkeyPatch, channel: str | int) -> None:
    values = (np.arange(3000).reshape(1500, 2) * 10).astype("<i2")
    set_standard_input(monkeypatch, values.tobytes())
    source = open_source("-", encoding="s16le", num_channels=2, sampling_rate=RATE, channel=channel)
    assert (source.item.file, source.item.name, source.is_recording) == ("-", "stdin", True)
    expected = values.astype(np.float32) / np.float32(32768)
    assert np.array_equal(read(source), expected.mean(axis=1) if channel == "mix" else expected[:, 1])


def test_the_standard_input_with_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    set_standard_input(monkeypatch, CLIP_PATHS[0].read_bytes())
    assert np.array_equal(read(open_source("-")), read_audio(CLIP))
    set_standard_input(monkeypatch, CLIP_PATHS[0].read_bytes())
    assert np.array_equal(read(open_source("-"), 8000), read_audio(CLIP, 8000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    path = str(tmp_path / "live")
    os.mkfifo(path)
    samples = np.arange(1000, dtype="<f4") / 1000
    writer = threading.Thread(target=lambda: Path(path).write_bytes(samples.tobytes()), daemon=True)
    writer.start()
    source = open_source(path, encoding="f32le")
    assert np.array_equal(read(source), samples)
    assert source.item.name == "live"


def test_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).standard_normal((4000, 2)).astype(np.float32)
    done = threading.Event()
    monkeypatch.setitem(sys.modules, "sounddevice", FakeMicrophones(samples, (RATE,), done.set, (2,)))
    clock = FakeClock()
    source = open_source("microphone", clock, channel=1)
    assert source.is_live
    assert source.is_recording
    queue, rate = source.prepare(RATE)
    assert rate == RATE
    source.start()
    assert done.wait(10)
    source.stop()
    pieces = []
    while (piece := queue.get(0.0)) is not None:
        pieces.append(piece)
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), samples[:, 1])
    assert {piece.spoken_seconds for piece in pieces} == {100.0}
    assert queue.is_done
    assert queue.num_gaps == 1


def test_a_microphone_whose_rate_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", FakeMicrophones(np.zeros((10, 2), np.float32), (44100,)))
    assert open_source("microphone").prepare(RATE)[1] == 44100
    with pytest.raises(ValueError, match="--sampling_rate 16000 is not supported by desk microphone"):
        open_source("microphone", sampling_rate=16000).prepare(RATE)


def test_a_microphone_that_is_pulled_out_is_an_error_after_its_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.zeros((4000, 2), np.float32)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeMicrophones(samples, ends=True))
    with pytest.raises(InputError, match="desk microphone has ended the recording"):
        read(open_source("microphone"))


@pytest.mark.parametrize(
    ("argument", "options", "error", "message"),
    [
        ("nothing.wav", {}, InputError, "'nothing.wav' does not exist; expected an audio file"),
        (".", {}, InputError, "is a folder; expected an audio file"),
        (CLIP, {"encoding": "s16le"}, ValueError, r"--encoding belongs to -, the standard input\.$"),
        (CLIP, {"num_channels": 2}, ValueError, "--num_channels belongs to -, the standard input, or microphone"),
        (CLIP, {"device": "1"}, ValueError, "--input_device belongs to microphone"),
        ("-", {"sampling_rate": 8000}, ValueError, "--sampling_rate belongs to samples without a header"),
        ("-", {"encoding": "mp3"}, ValueError, "encoding='mp3' is not supported"),
        ("microphone", {"encoding": "s16le"}, ValueError, "--encoding belongs to -, the standard input"),
        ("microphone", {"realtime": True}, ValueError, "--realtime belongs to files and -; a microphone is live"),
        ("microphone", {"channel": 2, "num_channels": 2}, ValueError, "--channel 2 is not recorded"),
    ],
)
def test_what_is_refused(
    monkeypatch: pytest.MonkeyPatch, argument: str, options: dict[str, Any], error: type, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", FakeMicrophones(np.zeros((10, 2), np.float32)))
    set_standard_input(monkeypatch, b"")
    with pytest.raises(error, match=message):
        open_source(argument, **options)


def test_a_terminal_is_not_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    set_standard_input(monkeypatch, b"", is_terminal=True)
    with pytest.raises(ValueError, match="the standard input is a terminal"):
        open_source("-")


def test_what_is_wrong_with_the_audio_is_an_error_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    set_standard_input(monkeypatch, b"three one four")
    with pytest.raises(InputError, match="the standard input cannot be decoded"):
        read(open_source("-"))
    with pytest.raises(InputError, match="channels=3"):
        read(open_source(CLIP, channel=3))
