"""Headers of audio files, and parts of files; needs the extra `audio`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from .clips import check_channels, check_has_channel, take_channels
from .decoders import Decoded
from .downloads import is_url
from .files import AudioFile, Header, load_waveform, read_audio
from .sections import CutOffError

# By so much the parts that manifests name may exceed their file: lengths are rounded there.
SPARE_SECONDS = 0.1
# Files whose lengths are kept once they were decoded to find them: the parts of a file come one after the other.
KEPT_LENGTHS = 256


def read_header(path: str) -> Header | None:
    """Length and channels of a local file by its header; None for a file that is not audio: reading it says why."""
    if is_url(path):
        return None
    try:
        with AudioFile(path) as audio:
            return audio.measure()
    except (OSError, ValueError):
        return None


def read_part(
    path: str, sampling_rate: int, channel: int | str = "mix", start_seconds: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """
    Samples of a part of a local file, without reading the rest where that can be found exactly.

    Args:
        path: An audio file.
        sampling_rate: Rate of the result, in Hz.
        channel: `"mix"` for the mean of the channels, or the number of one.
        start_seconds: Where the part begins.
        seconds: Length of the part; None: to the end.

    Returns:
        (samples,), float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `read_audio`, and for a part that the file does not have or in which there is no sample.
    """
    if start_seconds == 0 and seconds is None:
        return read_audio(path, sampling_rate, channel)
    check_channels(channel)
    with AudioFile(path) as audio:
        header = audio.measure()
        if channel != "mix":
            check_has_channel(channel, header.num_channels, audio.name)
        end_seconds = None if seconds is None else start_seconds + seconds
        if header.is_exact:
            assert header.seconds is not None
            if start_seconds >= header.seconds or (end_seconds or 0.0) > header.seconds + SPARE_SECONDS:
                raise _missing(audio.name, start_seconds, seconds, header.seconds)
            rate, kept, found_seconds = _collect(audio, audio.decoded(start_seconds), 0.0, seconds, channel)
            if start_seconds + found_seconds < min(end_seconds or header.seconds, header.seconds) - SPARE_SECONDS:
                raise CutOffError(
                    f"{audio.name} is cut off: its header announces {header.seconds:.2f} s, "
                    f"{start_seconds + found_seconds:.2f} s are there."
                )
        else:
            rate, kept, found_seconds = _collect(audio, audio.decoded(), start_seconds, seconds, channel)
            is_empty = rate > 0 and seconds is not None and round(seconds * rate) == 0
            has_start = is_empty or sum(map(len, kept)) > 0
            if not has_start or (end_seconds is not None and end_seconds > found_seconds + SPARE_SECONDS):
                raise _missing(audio.name, start_seconds, seconds, found_seconds)
        if not kept:
            raise ValueError(
                f"offset={start_seconds}, duration={seconds} of {audio.name} is an empty part: it has no sample; "
                "expected a longer one."
            )
        waveform = np.concatenate(kept)
        return load_waveform({"raw": waveform, "sampling_rate": rate}, sampling_rate, audio.name)


def measure_part(path: str, start_seconds: float = 0.0, seconds: float | None = None) -> float:
    """
    Length of a part of a local file in seconds, by the header where that has it.

    A file whose header does not have it exactly (MP3 and what else FFmpeg reads) is decoded once if a part of it is
    asked for: what is announced may be longer than the file.

    Args:
        path: An audio file.
        start_seconds: Where the part begins.
        seconds: Length of the part as it is announced; None: to the end.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: for a file that is not audio, and for a part that the file does not have.
    """
    with AudioFile(path) as audio:
        header = audio.measure()
        found_seconds = header.seconds
        is_part = seconds is not None or start_seconds > 0
        if found_seconds is None or (is_part and not header.is_exact):
            found_seconds = _decoded_seconds(audio, path)
        end_seconds = 0.0 if seconds is None else start_seconds + seconds
        if (start_seconds > 0 and start_seconds >= found_seconds) or end_seconds > found_seconds + SPARE_SECONDS:
            raise _missing(audio.name, start_seconds, seconds, found_seconds)
        return found_seconds - start_seconds if seconds is None else min(seconds, found_seconds - start_seconds)


def _decoded_seconds(audio: AudioFile, path: str) -> float:
    """Length of a file by its samples; that of a local file is kept as long as it does not change."""
    if not isinstance(path, str | os.PathLike) or is_url(path):
        return _count_seconds(audio)
    status = os.stat(path)
    return _count_seconds_of_path(os.path.abspath(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=KEPT_LENGTHS)
def _count_seconds_of_path(path: str, _changed_ns: int, _size: int) -> float:
    with AudioFile(path) as audio:
        return _count_seconds(audio)


def _count_seconds(audio: AudioFile) -> float:
    return sum(len(block.samples) / block.sampling_rate for block in audio.decoded())


def _collect(
    audio: AudioFile, blocks: Iterator[Decoded], start_seconds: float, seconds: float | None, channel: int | str
) -> tuple[int, list[np.ndarray], float]:
    """Rate and mono samples of a part, and the seconds that were decoded up to its end or that of the file."""
    kept: list[np.ndarray] = []
    rate = position = start = 0
    stop: int | None = None
    for decoded in blocks:
        if not rate:
            rate = decoded.sampling_rate
            start = round(start_seconds * rate)
            stop = None if seconds is None else start + round(seconds * rate)
        if decoded.sampling_rate != rate:
            raise ValueError(
                f"{audio.name} changes from {rate} to {decoded.sampling_rate} Hz; expected one rate in a file of "
                "which a part (offset, duration) is read."
            )
        first = max(start - position, 0)
        last = decoded.samples.shape[0] if stop is None else min(stop - position, decoded.samples.shape[0])
        if first < last:
            kept.append(take_channels(decoded.samples[first:last], channel, audio.name))
        position += decoded.samples.shape[0]
        if stop is not None and position >= stop:
            break
    return rate, kept, position / rate if rate else 0.0


def _missing(name: str, start_seconds: float, seconds: float | None, found_seconds: float) -> ValueError:
    return ValueError(
        f"offset={start_seconds}, duration={seconds} of {name} is not supported; the file has {found_seconds:.2f} s."
    )
