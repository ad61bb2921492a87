"""Reading audio files: formats, channels, rates, and what is wrong with a file."""

from __future__ import annotations

import builtins
import io
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transformers_fastconformer.audio.files as audio_module
from transformers_fastconformer.audio.files import AudioFile, Header, find_file, load_waveform, read_audio
from transformers_fastconformer.audio.parts import read_header

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")


def tone(seconds: float, sampling_rate: int, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_formats(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"tone.{extension}"
    soundfile.write(path, tone(1.0, 16000), 16000)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - 16000) <= 2 * 1152  # MP3 is written in whole blocks
    middle = samples[4000:12000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 220  # 440 Hz in half a second
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.02)


def test_16_bit_samples_are_exact(tmp_path: Path) -> None:
    integers = np.array([-32768, -1, 0, 1, 32767], dtype=np.int16)
    soundfile.write(tmp_path / "x.wav", integers, 16000, subtype="PCM_16")
    assert np.array_equal(read_audio(tmp_path / "x.wav"), integers / np.float32(32768))


def test_path_bytes_and_open_file_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "tone.flac"
    soundfile.write(path, tone(0.5, 16000), 16000)
    expected = read_audio(path)
    assert np.array_equal(read_audio(str(path)), expected)
    assert np.array_equal(read_audio(path.read_bytes()), expected)
    with path.open("rb") as file:
        assert np.array_equal(read_audio(file), expected)


def test_channels(tmp_path: Path) -> None:
    left, right = tone(0.2, 16000), tone(0.2, 16000, hertz=1000.0)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "stereo.wav"), (left + right) / 2)
    assert np.array_equal(read_audio(tmp_path / "stereo.wav", channels=0), left)
    assert np.array_equal(read_audio(tmp_path / "stereo.wav", channels=1), right)
    with pytest.raises(ValueError, match=r"channels=2 of '.*stereo.wav' does not exist; it has channels 0 to 1"):
        read_audio(tmp_path / "stereo.wav", channels=2)
    with pytest.raises(ValueError, match="channels='left' is not supported"):
        read_audio(tmp_path / "stereo.wav", channels="left")


@pytest.mark.parametrize("file_sampling_rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_duration_and_tone(file_sampling_rate: int, tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    soundfile.write(tmp_path / "tone.wav", tone(1.0, file_sampling_rate), file_sampling_rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "tone.wav", sampling_rate=16000)
    assert samples.dtype == np.float32
    assert len(samples) == 16000
    assert np.abs(samples - tone(1.0, 16000))[1000:-1000].max() < 1e-4


# Block by block


def write_noise(path: Path, sampling_rate: int, num_samples: int, num_channels: int = 1, **options: Any) -> Path:
    noise = np.random.default_rng(num_samples).uniform(-0.5, 0.5, (num_samples, num_channels))
    soundfile.write(path, noise, sampling_rate, **options)
    return path


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("block_samples", [1000, 4096, 65536])
def test_blocks_are_the_file_as_decoded_at_once(
    extension: str, block_samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_noise(tmp_path / f"noise.{extension}", 16000, 50001, num_channels=2)
    with soundfile.SoundFile(path) as file:
        expected = file.read(dtype="float32")
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", block_samples)
    with AudioFile(path) as audio:
        for _ in range(2):  # every pass is the same
            assert np.array_equal(np.concatenate(list(audio.blocks())), expected.mean(axis=1))
        blocks = list(audio.blocks(channels=1))
    assert np.array_equal(np.concatenate(blocks), expected[:, 1])
    assert max(map(len, blocks)) <= block_samples


@pytest.mark.parametrize("file_sampling_rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("num_samples", [1, 7, 4410, 132317])
@pytest.mark.parametrize("block_samples", [1000, 65536])
def test_blocks_are_resampled_as_the_whole_clip(
    file_sampling_rate: int, num_samples: int, block_samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soxr = pytest.importorskip("soxr")
    path = write_noise(tmp_path / "noise.wav", file_sampling_rate, num_samples, subtype="FLOAT")
    samples, _ = soundfile.read(path, dtype="float32")
    expected = soxr.resample(samples, file_sampling_rate, 16000, quality="HQ")
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", block_samples)
    found = read_audio(path)
    assert len(found) == -(-num_samples * 16000 // file_sampling_rate)
    assert np.array_equal(found[: len(expected)], expected)
    assert not found[len(expected) :].any()


class Pipe(io.RawIOBase):
    """What cannot be wound back, as the standard input."""

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.file.readinto(buffer)


def test_a_pipe_is_read_as_the_file(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "noise.flac", 16000, 30000)
    with AudioFile(Pipe(path.read_bytes())) as audio:  # type: ignore[arg-type]
        passes = [np.concatenate(list(audio.blocks())) for _ in range(2)]
    assert np.array_equal(passes[0], passes[1])
    assert np.array_equal(passes[0], read_audio(path))


def test_an_open_file_stays_open(tmp_path: Path) -> None:
    with write_noise(tmp_path / "noise.wav", 16000, 3000).open("rb") as file:
        with AudioFile(file) as audio:
            assert sum(map(len, audio.blocks())) == 3000
        assert not file.closed


def test_a_fault_far_in_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", 1000)
    samples = tone(0.5, 16000)
    samples[7654] = np.nan
    soundfile.write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="has the value nan at sample 7654; expected finite samples"):
        read_audio(tmp_path / "x.wav")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing.wav' does not exist; expected an audio file"):
        read_audio(tmp_path / "nothing.wav")


def test_what_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio at all")
    with pytest.raises(ValueError, match=r"text.wav' cannot be decoded; expected audio such as WAV, FLAC"):
        read_audio(tmp_path / "text.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.wav' is empty \(0 bytes\)"):
        read_audio(tmp_path / "empty.wav")
    with pytest.raises(ValueError, match="is a folder; expected an audio file"):
        read_audio(tmp_path)
    with pytest.raises(ValueError, match="audio of 4 bytes cannot be decoded"):
        read_audio(b"RIFF")
    with pytest.raises(ValueError, match=r"open file.* cannot be decoded"):
        read_audio(io.BytesIO(b"nothing"))
    with pytest.raises(ValueError, match="audio is of type int; expected a path, bytes or an open binary file"):
        read_audio(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["path", "bytes", "open file"])
def test_a_wav_that_is_cut_off(form: str, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(1.0, 16000), 16000, subtype="PCM_16")
    whole = path.read_bytes()
    cut = whole[:20044]
    path.write_bytes(cut)
    source: Any = {"path": path, "bytes": cut, "open file": io.BytesIO(cut)}[form]
    with pytest.raises(ValueError, match=r"is cut off: its header announces 32000 bytes of samples, 20000 are there"):
        read_audio(source)
    # A header that says the length of the file instead of that of the samples loses nothing.
    assert len(read_audio(whole[:40] + (32044).to_bytes(4, "little") + whole[44:])) == 16000


@pytest.mark.parametrize("announced", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_whose_writer_did_not_know_its_length(announced: int, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(0.5, 16000), 16000, subtype="PCM_16")
    whole = path.read_bytes()
    streamed = whole[:40] + announced.to_bytes(4, "little") + whole[44:]
    assert np.array_equal(read_audio(streamed), read_audio(whole))


def test_a_wav_with_other_chunks(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(0.5, 16000), 16000, subtype="PCM_16")
    whole = path.read_bytes()
    note = b"note" + (3).to_bytes(4, "little") + b"abc\0"
    assert len(read_audio(whole[:36] + note + whole[36:])) == 8000
    with pytest.raises(ValueError, match="cut off"):
        read_audio((whole[:36] + note + whole[36:])[:5000])


def test_a_flac_that_is_cut_off(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.flac", np.random.default_rng(0).uniform(-1, 1, 64000) * 0.5, 16000)
    whole = (tmp_path / "tone.flac").read_bytes()
    with pytest.raises(ValueError, match=r"cut off|cannot be decoded"):
        read_audio(whole[: len(whole) // 2])


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    samples = tone(0.1, 16000)
    samples[9] = np.inf
    soundfile.write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"x.wav' has the value inf at sample 9; expected finite samples"):
        read_audio(tmp_path / "x.wav")


def test_arrays_and_mappings() -> None:
    left, right = tone(0.2, 16000), tone(0.2, 16000, hertz=1000.0)
    assert np.array_equal(load_waveform(left), left)
    assert np.array_equal(load_waveform(list(map(float, left))), left)
    for stereo in (np.stack([left, right]), np.stack([left, right], axis=1)):
        assert np.array_equal(load_waveform({"array": stereo, "sampling_rate": 16000}), (left + right) / 2)
    assert np.array_equal(load_waveform(left[None]), left)
    assert len(load_waveform({"raw": left, "sampling_rate": 8000})) == 2 * len(left)
    assert len(load_waveform({"raw": left, "sampling_rate": 48000.0})) == -(-len(left) // 3)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 2), dtype=np.float32), r"clip has shape \(2, 2\): which side is time cannot be told"),
        (np.zeros((16, 16000), dtype=np.float32), r"clip has shape \(16, 16000\); expected \(samples,\)"),
        (np.zeros((1, 2, 3), dtype=np.float32), r"clip has shape \(1, 2, 3\)"),
        (np.zeros((0, 100), dtype=np.float32), r"clip is empty \(0 samples\); expected at least one sample"),
        ([[0.0, 0.1], [0.2]], "clip has rows of different lengths"),
        (np.zeros(4, dtype=np.int32), "samples of type int32; expected floating-point samples .* or 16-bit integers"),
        (
            {"raw": np.zeros(4), "sampling_rate": 7},
            "sampling_rate=7 of clip is not supported; expected 1000 to 768000",
        ),
        ({"raw": np.zeros(4), "sampling_rate": 10**15}, "sampling_rate=10{15} of clip is not supported"),
        ((16000.5, np.zeros(4)), "clip"),
        ({"raw": np.zeros(4), "sampling_rate": "fast"}, "sampling_rate='fast' of clip is not supported"),
        ({"raw": np.zeros(4), "sampling_rate": 16000.5}, "sampling_rate=16000.5 of clip is not supported"),
        ({"raw": np.zeros(4), "sampling_rate": True}, "sampling_rate=True of clip"),
        ({"raw": np.zeros(4), "array": np.zeros(4), "sampling_rate": 16000}, "both 'raw' and 'array'"),
        ({"sampling_rate": 16000}, r"clip is a mapping with \['sampling_rate'\]"),
        (None, "clip is of type NoneType"),
    ],
)
def test_what_is_no_waveform(audio: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_waveform(audio, name="clip")


def test_files_among_the_forms_of_audio() -> None:
    content, file = b"RIFF", io.BytesIO()
    for source in ("clip.wav", Path("clip.wav"), content, bytearray(content), file):
        assert find_file(source) is source
    assert find_file({"bytes": content, "path": None}) is content
    assert find_file({"bytes": content, "path": "clip.wav"}) is content
    assert find_file({"path": "clip.wav", "text": "one"}) == "clip.wav"
    for audio in (np.zeros(3), [0.0], {"array": np.zeros(3), "path": "clip.wav"}, {"text": "one"}, {}, None, 3):
        assert find_file(audio) is None


def test_audio_without_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(0, dtype=np.float32), 16000)
    with pytest.raises(ValueError, match=r"silent.wav' is an audio file without samples"):
        read_audio(tmp_path / "silent.wav")


@pytest.mark.parametrize(("missing", "file_sampling_rate"), [("soundfile", 16000), ("soxr", 8000)])
def test_a_missing_extra_is_named(
    missing: str, file_sampling_rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(0.1, file_sampling_rate), file_sampling_rate)
    original = builtins.__import__

    def import_without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(ImportError, match=rf"{missing}: pip install 'transformers-fastconformer\[audio\]'"):
        read_audio(tmp_path / "tone.wav")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_special_files_are_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.wav"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            monkeypatch.chdir(tmp_path)  # names of sockets are short
            listener.bind("x.wav")
    else:
        path = Path("/dev/zero")
    with pytest.raises(ValueError, match=rf"{path.name}' is a {kind}; expected an audio file, or a pipe that is open"):
        read_audio(path)
    assert read_header(str(path)) is None


def test_names_that_no_file_can_have() -> None:
    with pytest.raises(OSError, match=r"'x{300}.wav' cannot be read: File name too long"):
        read_audio("x" * 300 + ".wav")
    with pytest.raises(ValueError, match=r"is no path: embedded null"):
        read_audio("x\0.wav")


def test_a_clip_of_values_that_no_recording_has(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.full(100, 1e38, dtype=np.float32), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"x.wav' has values up to 1e\+38; expected samples in \[-1, 1\]"):
        read_audio(tmp_path / "x.wav")


def test_lengths_by_headers(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "noise.wav", 8000, 12000, num_channels=2)
    with AudioFile(path) as audio:
        assert audio.measure() == Header(1.5, 2, is_exact=True)
    with AudioFile(path.read_bytes() * 2) as audio:
        assert audio.measure() == Header(3.0, 2)
