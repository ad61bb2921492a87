"""Audio files to mono waveforms at the model's rate. Needs the extra `audio` (soundfile, soxr)."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import numpy as np

from . import frames

INSTALL_COMMAND = "pip install 'transformers-fastconformer[audio]'"


def read_audio(
    audio: str | os.PathLike[str] | bytes | BinaryIO, sampling_rate: int = 16000, channels: str | int = "mix"
) -> np.ndarray:
    r"""
    Decode an audio file (WAV, FLAC, OGG, MP3 and whatever else libsndfile reads), make it mono and resample it.

    Args:
        audio (`str`, `os.PathLike`, `bytes` or a binary file object): A path, the bytes of a file, or an open file.
        sampling_rate (`int`, defaults to 16000): Rate of the result, in Hz. Resampled with soxr at high quality.
        channels (`str` or `int`, defaults to `"mix"`): `"mix"` averages the channels, a number takes that one.

    Returns:
        `np.ndarray`: float32 samples in [-1, 1], of shape (samples,).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no audio, holds no samples, or lacks the wanted channel.
        ImportError: the extra `audio` is not installed; the message holds the command.
    """
    if not (channels == "mix" or (isinstance(channels, int) and not isinstance(channels, bool))):
        raise ValueError(f"channels={channels!r} is not supported; expected 'mix' or the number of a channel.")
    name, source = _open(audio)
    samples, file_sampling_rate = _decode(name, source)  # (samples, channels)
    if samples.shape[0] == 0:
        raise ValueError(f"{name} is an audio file without samples.")
    num_channels = samples.shape[1]
    if channels == "mix":
        waveform = samples[:, 0] if num_channels == 1 else samples.mean(axis=1)  # (samples,)
    elif 0 <= int(channels) < num_channels:
        waveform = samples[:, int(channels)]
    else:
        raise ValueError(f"channels={channels} of {name} does not exist; it has channels 0 to {num_channels - 1}.")
    return _resample(np.ascontiguousarray(waveform), file_sampling_rate, sampling_rate)


def _open(audio: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[str, str | BinaryIO]:
    """The name to use in messages, and what soundfile opens."""
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return f"audio of {len(audio)} bytes", io.BytesIO(audio)
    if isinstance(audio, (str, os.PathLike)):
        path = os.fspath(audio)
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path!r} does not exist; expected an audio file.")
        if os.path.isdir(path):
            raise ValueError(f"{path!r} is a folder; expected an audio file.")
        if os.path.getsize(path) == 0:
            raise ValueError(f"{path!r} is empty (0 bytes); expected an audio file.")
        return repr(path), path
    if hasattr(audio, "read"):
        return repr(getattr(audio, "name", "open file")), audio
    raise ValueError(f"audio is of type {type(audio).__name__}; expected a path, bytes or an open binary file.")


def _decode(name: str, source: str | BinaryIO) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"Reading {name} needs soundfile: {INSTALL_COMMAND}") from error
    try:
        # Not `soundfile.read`: it seeks to the start, after which an MP3 decodes to other last bits than NeMo's.
        with soundfile.SoundFile(source) as file:
            return file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.LibsndfileError, TypeError, RuntimeError) as error:
        formats = "WAV, FLAC, OGG or MP3"
        raise ValueError(f"{name} cannot be decoded; expected {formats}. libsndfile says: {error}") from error


def _resample(waveform: np.ndarray, from_sampling_rate: int, to_sampling_rate: int) -> np.ndarray:
    if from_sampling_rate == to_sampling_rate:
        return waveform
    try:
        import soxr
    except ImportError as error:
        rates = f"{from_sampling_rate} Hz to {to_sampling_rate} Hz"
        raise ImportError(f"Resampling from {rates} needs soxr: {INSTALL_COMMAND}") from error
    resampled = soxr.resample(waveform, from_sampling_rate, to_sampling_rate, quality="HQ")
    # soxr rounds the length to the nearest sample; the duration is kept to the sample above, filled with silence.
    num_samples = frames.resampled_samples(waveform.shape[0], from_sampling_rate, to_sampling_rate)
    missing = max(num_samples - resampled.shape[0], 0)
    return np.pad(resampled, (0, missing))[:num_samples].astype(np.float32, copy=False)
