"""Headers of audio files, and parts of files read without the rest; needs the extra `audio` (soundfile, soxr)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .clips import check_channels, check_has_channel, take_channels
from .files import URL_SCHEMES, import_soundfile, load_waveform, read_audio

# By so much the parts that manifests name may exceed their file: lengths are rounded there.
SPARE_SECONDS = 0.1


class Header(NamedTuple):
    """Length and channels of a file, as its header has them."""

    seconds: float
    num_channels: int


def read_header(path: str) -> Header | None:
    """Length and channels of a local file by its header; None for a file that is not audio: reading it says why."""
    soundfile = import_soundfile(repr(path))
    if path.startswith(URL_SCHEMES):
        return None
    try:
        found = soundfile.info(path)
    except (OSError, RuntimeError, TypeError):
        return None
    return Header(found.frames / found.samplerate, found.channels)


def read_part(
    path: str, sampling_rate: int, channel: int | str = "mix", start_seconds: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """
    Samples of a part of a local file, without reading the rest.

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
        ValueError: as `read_audio`, and for a part that the file does not have.
    """
    if start_seconds == 0 and seconds is None:
        return read_audio(path, sampling_rate, channel)
    header = read_header(path)
    if header is None:
        read_audio(path, sampling_rate, channel)  # says why
        raise ValueError(f"{path!r} cannot be decoded; expected an audio file.")
    end_seconds = start_seconds if seconds is None else start_seconds + seconds
    if start_seconds >= header.seconds or end_seconds > header.seconds + SPARE_SECONDS:
        raise ValueError(
            f"offset={start_seconds}, duration={seconds} of {path!r} is not supported; the file has "
            f"{header.seconds:.2f} s."
        )
    check_channels(channel)
    if channel != "mix":
        check_has_channel(channel, header.num_channels, repr(path))
    soundfile = import_soundfile(repr(path))
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            file.seek(round(start_seconds * rate))
            samples = file.read(-1 if seconds is None else round(seconds * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"{path!r} cannot be decoded. libsndfile says: {error}") from error
    waveform = take_channels(samples, channel, repr(path))
    return load_waveform({"raw": waveform, "sampling_rate": rate}, sampling_rate, repr(path))
