"""Audio files of many containers, made in memory with PyAV and soundfile."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

RATE = 16000
# What PyAV is told for each suffix: container, codec, bits or nothing.
CONTAINERS = {
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "mov": ("mov", "aac"),
    "3gp": ("3gp", "aac"),
    "aac": ("adts", "aac"),
    "mka": ("matroska", "libopus"),
    "webm": ("webm", "libopus"),
    "wma": ("asf", "wmav2"),
    "avi": ("avi", "pcm_s16le"),
    "ts": ("mpegts", "aac"),
    "mp3": ("mp3", "libmp3lame"),
    "opus": ("ogg", "libopus"),
    "ogg": ("ogg", "libopus"),
    "flac": ("flac", "flac"),
    "wav": ("wav", "pcm_s16le"),
    "w64": ("w64", "pcm_s16le"),
    "aiff": ("aiff", "pcm_s16be"),
    "au": ("au", "pcm_s16be"),
    "caf": ("caf", "pcm_s16be"),
}


class Pipe(io.RawIOBase):
    """A place to write that cannot be wound back, as a pipe."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, content: Any) -> int:
        self.content += content
        return len(content)


def tone(seconds: float, sampling_rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    """A tone that rises and falls three times a second, (samples,), float32."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (0.2 * np.sin(2 * np.pi * hertz * time) * (1 + np.sin(6 * np.pi * time))).astype(np.float32)


def encode(samples: np.ndarray, suffix: str, sampling_rate: int = RATE, is_piped: bool = False, **options: str) -> bytes:
    """
    The bytes of a file.

    Args:
        samples: (samples,) or (samples, channels).
        suffix: Key of `CONTAINERS`.
        sampling_rate: Their rate, in Hz.
        is_piped: The writer cannot go back to the header, so that it does not hold the length.
        options: Options of the container, as FFmpeg names them.
    """
    import av

    container, codec = CONTAINERS[suffix]
    target: Any = Pipe() if is_piped else io.BytesIO()
    by_channel = np.atleast_2d(samples.T)
    pcm = (by_channel * 32767).round().astype(np.int16)
    with av.open(target, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=sampling_rate)
        stream.layout = "mono" if pcm.shape[0] == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(pcm.T.reshape(1, -1), format="s16", layout=stream.layout.name)
        frame.sample_rate = sampling_rate
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return bytes(target.content) if is_piped else target.getvalue()
