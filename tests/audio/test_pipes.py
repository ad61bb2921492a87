"""Audio from pipes, as it comes: raw samples, WAV and other containers."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest

from transformers_fastconformer.audio.pipes import ByteStream, PcmFormat, decode_pipe
from transformers_fastconformer.audio.sections import CutOffError

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

RATE = 16000
NAME = "the pipe"


def noise(num_channels: int = 1, num_samples: int = 8000) -> np.ndarray:
    """(samples, channels)"""
    generator = np.random.default_rng(num_channels)
    return (0.1 * generator.standard_normal((num_samples, num_channels))).astype(np.float32)


def pipe_of(content: bytes, piece_bytes: int = 1000) -> Callable[[int], bytes]:
    """A pipe that gives at most `piece_bytes` at a time."""
    stream = io.BytesIO(content)
    return lambda num_bytes: stream.read(min(num_bytes, piece_bytes))


def join(content: bytes, raw: PcmFormat | None = None, piece_bytes: int = 1000) -> tuple[int, np.ndarray]:
    found = list(decode_pipe(pipe_of(content, piece_bytes), NAME, raw))
    assert len({part.sampling_rate for part in found}) == 1
    return found[0].sampling_rate, np.concatenate([part.samples for part in found])


def to_container(samples: np.ndarray, container: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=container, subtype=subtype)
    return target.getvalue()


@pytest.mark.parametrize("piece_bytes", [1, 7, 100000])
@pytest.mark.parametrize(("encoding", "kind", "scale"), [("s16le", "<i2", 32768), ("f32le", "<f4", 1)])
def test_raw_samples_in_any_pieces(piece_bytes: int, encoding: str, kind: str, scale: int) -> None:
    samples = (noise(2, 500) * scale).astype(kind)
    rate, found = join(samples.tobytes(), PcmFormat(encoding, 8000, 2), piece_bytes)
    assert rate == 8000
    assert np.array_equal(found, samples.astype(np.float32) / np.float32(scale))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
def test_wav_of_any_form(subtype: str, container: str) -> None:
    content = to_container(noise(2), container, subtype, 44100)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    rate, found = join(content)
    assert rate == 44100
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF - 36])
def test_a_wav_of_unknown_length_goes_to_its_end(size: int) -> None:
    content = to_container(noise(), "WAV", "PCM_16")
    place = content.index(b"data") + 4
    content = content[:place] + size.to_bytes(4, "little") + content[place + 4 :]
    assert join(content)[1].shape == (8000, 1)


def test_samples_come_before_the_pipe_ends() -> None:
    """The header and a tenth of a second are enough for the first samples."""
    content = to_container(noise(), "WAV", "PCM_16")
    stream = io.BytesIO(content)

    def read(num_bytes: int) -> bytes:
        assert stream.tell() < 3300, "more was read before the first samples were given"
        return stream.read(min(num_bytes, 1600))

    assert next(decode_pipe(read, NAME)).samples.shape[0] > 0


@pytest.mark.parametrize(("container", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)])
def test_other_containers_without_going_back(container: str, subtype: str | None) -> None:
    pytest.importorskip("av", reason="the extra `audio` is not installed")
    content = to_container(noise(1, 48000), container, subtype)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    rate, found = join(content)
    assert rate == RATE
    assert abs(found.shape[0] - expected.shape[0]) < 3000  # of an MP3, what its coder has added
    if container == "FLAC":
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("content", "raw", "message"),
    [
        (b"", None, "the pipe is empty"),
        (b"three one four one five nine", None, "the pipe cannot be decoded.*Raw samples need their encoding"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", None, "the pipe is an MP4 or M4A, which cannot be read before its end"),
        (to_container(noise(), "WAV"), PcmFormat("s16le", RATE), "begins with the header of a WAV"),
        (to_container(noise(), "WAV", "PCM_24"), None, "a WAV of the format 1 with 24 bits"),
        (to_container(noise(), "WAV")[:30], None, "cut off in its header"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", None, "without the form of its samples"),
    ],
)
def test_what_is_refused(content: bytes, raw: PcmFormat | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(decode_pipe(pipe_of(content), NAME, raw))


@pytest.mark.parametrize("raw", [None, PcmFormat("s16le", RATE)])
def test_a_cut_off_end_is_told_after_all_samples(raw: PcmFormat | None) -> None:
    content = (noise()[:, 0] * 32767).astype("<i2").tobytes()
    content = content[:-1] if raw is not None else to_container(noise(), "WAV", "PCM_16")[:-1]
    found: list[int] = []
    with pytest.raises(CutOffError, match="1 bytes are missing at its end"):
        found.extend(part.samples.shape[0] for part in decode_pipe(pipe_of(content), NAME, raw))
    assert sum(found) == 7999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("mulaw", RATE), "encoding='mulaw'"),
        (("s16le", 0), "sampling_rate=0"),
        (("s16le", RATE, 0), "num_channels=0"),
        (("s16le", RATE, 5000), "num_channels=5000"),
    ],
)
def test_forms_that_are_refused(options: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PcmFormat(*options)  # type: ignore[arg-type]


def test_what_was_looked_at_is_still_read() -> None:
    stream = ByteStream(pipe_of(bytes(range(100)), 7), NAME)
    assert stream.peek(20) == bytes(range(20))
    assert stream.read(5) == bytes(range(5))
    assert stream.read_all(10) == bytes(range(5, 15))
    rest = b""
    while part := stream.read(50):
        rest += part
    assert rest == bytes(range(15, 100))
