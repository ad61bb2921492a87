"""
Audio from a pipe, as it comes: raw samples, WAV, and other containers that can be read without going back.

A pipe is a function of a number of bytes that returns at most so many, as soon as there are some, and none at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..validation import require, require_choice, require_count
from .decoders import MAX_CHANNELS, Decoded, check_sampling_rate, decode_forwards
from .sections import CutOffError

ReadBytes = Callable[[int], bytes]

# Bytes that are asked for at a time, at most.
READ_BYTES = 1 << 15
# Type of the samples of each encoding, and the largest magnitude of integers.
ENCODINGS = {"s16le": ("<i2", 1 << 15), "f32le": ("<f4", 1)}
# Of WAV: by the code of the format and the bits of a sample.
WAV_TYPES = {
    (1, 16): ("<i2", 1 << 15),
    (1, 32): ("<i4", 1 << 31),
    (3, 32): ("<f4", 1),
    (3, 64): ("<f8", 1),
}
WAV_EXTENSIBLE = 0xFFFE
WAV_MARKS = (b"RIFF", b"RF64", b"BW64")
# Programs that do not know the length write zeros, ones, or somewhat less than 2 GB.
MIN_UNKNOWN_BYTES = 0x7FFF0000
# A chunk before the samples is a few bytes, or the tags of a recording.
MAX_CHUNK_BYTES = 1 << 24
HEAD_BYTES = 12
# What cannot be read from its start on: its index may stand at its end.
INDEXED_MARKS = ((4, b"ftyp", "an MP4 or M4A"), (4, b"moov", "an MP4 or M4A"), (0, b"caff", "a CAF"))


@dataclass(frozen=True)
class PcmFormat:
    """
    Form of raw samples.

    Args:
        encoding: One of `ENCODINGS`.
        sampling_rate: Their rate in Hz.
        num_channels: Channels, which take turns.

    Raises:
        ValueError: for a value that is not accepted.
    """

    encoding: str
    sampling_rate: int
    num_channels: int = 1

    def __post_init__(self) -> None:
        require_choice("encoding", self.encoding, tuple(ENCODINGS))
        check_sampling_rate(self.sampling_rate, "raw samples")
        require_count("num_channels", self.num_channels)
        require(self.num_channels <= MAX_CHANNELS, "num_channels", self.num_channels, f"1 to {MAX_CHANNELS}")


class ByteStream:
    """
    Bytes of a pipe, whose first ones can be looked at before they are read.

    Args:
        read: The pipe.
        name: What to call it in messages.
    """

    def __init__(self, read: ReadBytes, name: str) -> None:
        self.label = name  # PyAV would put a `name` into its messages
        self._read = read
        self._ahead = b""

    def peek(self, num_bytes: int) -> bytes:
        """The next bytes, fewer only where the pipe ends; they stay to be read."""
        while len(self._ahead) < num_bytes and (more := self._read(num_bytes - len(self._ahead))):
            self._ahead += more
        return self._ahead[:num_bytes]

    def read(self, num_bytes: int = READ_BYTES) -> bytes:
        """Bytes that are there, at least one before the end."""
        if not self._ahead:
            return self._read(num_bytes)
        found, self._ahead = self._ahead[:num_bytes], self._ahead[num_bytes:]
        return found

    def read_all(self, num_bytes: int) -> bytes:
        """
        The next bytes, all of them.

        Raises:
            CutOffError: where the pipe ends before.
        """
        found = self.peek(num_bytes)
        if len(found) < num_bytes:
            raise CutOffError(f"{self.label} is cut off in its header.")
        self._ahead = self._ahead[num_bytes:]
        return found


def decode_pipe(read: ReadBytes, name: str, raw: PcmFormat | None = None) -> Iterator[Decoded]:
    """
    Samples of a pipe as they come.

    Args:
        read: The pipe.
        name: What to call it in messages.
        raw: Form of samples without a header; None: the pipe has a header.

    Raises:
        ValueError: for what is not audio or cannot be read without going back, for a header with `raw`, for an empty
            pipe and for one that is cut off.
        ImportError: for a container other than WAV without the extra `audio`; the message holds the command.
    """
    stream = ByteStream(read, name)
    head = stream.peek(HEAD_BYTES)
    if not head:
        raise ValueError(f"{name} is empty (0 bytes); expected audio.")
    is_wav = head[:4] in WAV_MARKS and head[8:12] == b"WAVE"
    if raw is not None:
        require(not is_wav, "encoding", raw.encoding, f"no encoding: {name} begins with the header of a WAV")
        kind, full_scale = ENCODINGS[raw.encoding]
        yield from _decode_pcm(stream, raw.sampling_rate, raw.num_channels, kind, full_scale, None)
    elif is_wav:
        yield from _decode_wav(stream)
    else:
        for place, mark, container in INDEXED_MARKS:
            if head[place : place + len(mark)] == mark:
                raise ValueError(
                    f"{name} is {container}, which cannot be read before its end is there; expected WAV, FLAC, OGG, "
                    "MP3, AAC, WebM or raw samples, or the name of a file."
                )
        yield from decode_forwards(name, stream)


def _decode_wav(stream: ByteStream) -> Iterator[Decoded]:
    stream.read_all(HEAD_BYTES)
    form: tuple[int, int, str, int] | None = None
    while True:
        header = stream.read_all(8)
        mark, num_bytes = header[:4], int.from_bytes(header[4:], "little")
        if mark == b"data":
            break
        require(num_bytes <= MAX_CHUNK_BYTES, f"size of a chunk of {stream.label}", num_bytes, "that of a header")
        content = stream.read_all(num_bytes + num_bytes % 2)
        if mark == b"fmt ":
            form = _read_wav_form(content, stream.label)
    if form is None:
        raise ValueError(f"{stream.label} is a WAV without the form of its samples; expected a chunk 'fmt '.")
    is_known = 0 < num_bytes < MIN_UNKNOWN_BYTES
    yield from _decode_pcm(stream, *form, num_bytes if is_known else None)


def _read_wav_form(content: bytes, name: str) -> tuple[int, int, str, int]:
    """Rate, channels, type of the samples and their full scale."""
    if len(content) < 16:
        raise CutOffError(f"{name} is cut off in its header.")
    code, num_channels, sampling_rate, bits = (
        int.from_bytes(content[place:last], "little") for place, last in ((0, 2), (2, 4), (4, 8), (14, 16))
    )
    if code == WAV_EXTENSIBLE and len(content) >= 26:
        code = int.from_bytes(content[24:26], "little")
    if (code, bits) not in WAV_TYPES:
        accepted = ", ".join(f"{'floats' if code == 3 else 'integers'} of {bits} bits" for code, bits in WAV_TYPES)
        raise ValueError(
            f"{name} is a WAV of the format {code} with {bits} bits, which is not read from a pipe; expected "
            f"{accepted}, or the name of a file."
        )
    require(1 <= num_channels <= MAX_CHANNELS, f"channels of {name}", num_channels, f"1 to {MAX_CHANNELS}")
    return check_sampling_rate(sampling_rate, name), num_channels, *WAV_TYPES[(code, bits)]


def _decode_pcm(
    stream: ByteStream, sampling_rate: int, num_channels: int, kind: str, full_scale: int, num_bytes: int | None
) -> Iterator[Decoded]:
    """Samples as they come, `num_bytes` of them or all."""
    frame_bytes = num_channels * np.dtype(kind).itemsize
    rest = b""
    left = num_bytes
    while left is None or left > 0:
        content = stream.read(READ_BYTES if left is None else min(READ_BYTES, left))
        if not content:
            break
        left = None if left is None else left - len(content)
        content = rest + content
        num_whole = len(content) // frame_bytes * frame_bytes
        rest = content[num_whole:]
        if num_whole:
            values = np.frombuffer(content[:num_whole], dtype=kind).reshape(-1, num_channels)
            samples = values.astype(np.float32)
            yield Decoded(sampling_rate, samples if full_scale == 1 else samples / np.float32(full_scale))
    if rest or left:
        missing = frame_bytes - len(rest) if rest else left
        raise CutOffError(f"{stream.label} is cut off: {missing} bytes are missing at its end.")
