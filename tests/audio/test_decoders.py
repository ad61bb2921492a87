"""libsndfile and PyAV: which reads what, limits of blocks, rates and channels, and silence on the terminal."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recordings import encode, tone

import transformers_fastconformer.audio.decoders as decoders
from transformers_fastconformer.audio.decoders import MAX_BLOCK_BYTES, check_sampling_rate, limit_block
from transformers_fastconformer.audio.files import AudioFile, read_audio

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
av = pytest.importorskip("av", reason="the extra `audio` is not installed")


def wav(num_channels: int, sampling_rate: int, num_samples: int = 100) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((num_samples, num_channels)), 16000, format="WAV", subtype="PCM_16")
    content = bytearray(file.getvalue())
    content[24:28] = sampling_rate.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("sampling_rate", [1, 7, 999, 768_001, 2**31 - 1])
def test_rates_that_no_recording_has(sampling_rate: int) -> None:
    message = rf"sampling_rate={sampling_rate} of audio of \d+ bytes is not supported; expected 1000 to 768000 Hz"
    with pytest.raises(ValueError, match=message):
        read_audio(wav(1, sampling_rate))


def test_rates_that_recordings_have() -> None:
    for sampling_rate in (1000, 4000, 5512, 11025, 192_000, 768_000):
        assert len(read_audio(wav(1, sampling_rate))) == -(-100 * 16000 // sampling_rate)


@pytest.mark.parametrize("rate", [16000, 16000.0, np.int32(16000), torch.tensor(16000), np.array(16000)])
def test_rates_of_all_types(rate: Any) -> None:
    found = check_sampling_rate(rate, "x")
    assert (found, type(found)) == (16000, int)


@pytest.mark.parametrize("rate", [0, -1, True, "16000", 16000.5, float("nan"), None, torch.tensor([16000]), 10**15])
def test_what_is_no_rate(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"of x is not supported; expected (a positive integer|1000 to 768000 Hz)"):
        check_sampling_rate(rate, "x")


def test_blocks_are_bounded_in_bytes() -> None:
    assert limit_block(262144, 1, "x") == limit_block(262144, 64, "x") == 262144
    assert limit_block(262144, 1000, "x") * 1000 * 4 <= MAX_BLOCK_BYTES
    for num_channels in (0, 1025):
        with pytest.raises(ValueError, match=f"x has {num_channels} channels; expected 1 to 1024"):
            limit_block(262144, num_channels, "x")


def test_many_channels_are_read_in_short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "MAX_BLOCK_BYTES", 4 * 500 * 30)
    content = wav(500, 16000)
    with AudioFile(content) as audio:
        assert [len(block) for block in audio.blocks()] == [30, 30, 30, 10, 0]


@pytest.mark.parametrize(
    ("codec", "dtype"),
    [("pcm_u8", "u1"), ("pcm_s16le", "<i2"), ("pcm_s32le", "<i4"), ("pcm_f32le", "<f4"), ("pcm_f64le", "<f8")],
)
def test_samples_of_all_types_by_ffmpeg(codec: str, dtype: str) -> None:
    """A Matroska file, which libsndfile does not read, next to a WAV, which it reads."""
    signal = np.stack([tone(0.1), -tone(0.1, hertz=300.0)], axis=1)
    subtype = {"u1": "PCM_U8", "<i2": "PCM_16", "<i4": "PCM_32", "<f4": "FLOAT", "<f8": "DOUBLE"}[dtype]
    file = io.BytesIO()
    soundfile.write(file, signal, 16000, format="WAV", subtype=subtype)
    file.seek(0)
    target = io.BytesIO()
    with av.open(file) as given, av.open(target, "w", format="matroska") as output:
        stream = output.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    assert av.open(io.BytesIO(target.getvalue())).streams.audio[0].codec_context.name == codec
    for channels in ("mix", 0, 1):
        expected = read_audio(file.getvalue(), channels=channels)
        np.testing.assert_array_equal(read_audio(target.getvalue(), channels=channels), expected)


def test_ffmpeg_reads_what_libsndfile_does_not_in_the_same_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(tone(2.0), "m4a")
    whole = read_audio(content)
    monkeypatch.setattr("transformers_fastconformer.audio.files.BLOCK_SAMPLES", 3000)
    with AudioFile(content) as audio:
        blocks = list(audio.blocks())
        assert np.array_equal(np.concatenate(list(audio.blocks())), whole)  # every pass is the same
    assert max(map(len, blocks)) <= 3000
    assert np.array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize(
    "content", [b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\n{path}\n", b"ffconcat version 1.0\nfile '{path}'\n"]
)
def test_lists_that_name_other_files_are_not_followed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(wav(1, 16000, 16000))
    with pytest.raises(ValueError, match="cannot be decoded; expected audio such as WAV"):
        read_audio(content.replace(b"{path}", str(path).encode()))


def test_both_libraries_say_why() -> None:
    with pytest.raises(ValueError, match=r"libsndfile says: .*Format not recognised.* FFmpeg says: Invalid data"):
        read_audio(b"no audio at all")
    with pytest.raises(ValueError, match=r"libsndfile says: (?!.*object at)(?!.*Window)"):
        read_audio(io.BytesIO(b"RIFF\x24\0\0\0WAVEfmt "))


def test_nothing_is_written_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """Damaged files, of which mpg123 and FFmpeg would write."""
    files = [encode(tone(2.0), "mp3")[:3000], b"ID3\4\0\0\0\0\0\0" + b"\xff\xfb\x90\x64" * 20000]
    for suffix in ("mp3", "aac", "m4a"):
        content = encode(tone(2.0), suffix)
        for number in range(4):
            damaged = bytearray(content)
            for place in np.random.default_rng(number).integers(200, len(content), 60):
                damaged[place] = 255 - damaged[place] if damaged[place] not in (0, 255) else damaged[place]
            files.append(bytes(damaged))
    num_read = 0
    for content in files:
        with suppress(ValueError):
            num_read += len(read_audio(content)) > 0
    assert num_read
    found = capfd.readouterr()
    assert (found.out, found.err) == ("", "")
