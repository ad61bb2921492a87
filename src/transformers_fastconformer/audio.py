"""Audio of any form to mono waveforms at the model's rate. Files need the extra `audio` (soundfile, soxr)."""

from __future__ import annotations

import http.client
import io
import math
import numbers
import os
import urllib.request
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch

from . import frames

INSTALL_COMMAND = "pip install 'transformers-fastconformer[audio]'"
URL_SCHEMES = ("http://", "https://")
URL_TIMEOUT_SECONDS = 60.0
# More channels than that in an array without a known layout are rather a batch.
MOST_ARRAY_CHANNELS = 2
# What writers put into a WAV header when they do not know the length: 0, or the greatest numbers there are.
LEAST_UNKNOWN_BYTES = 0x7FFF0000
# Headers that are wrong by so little lose no sound: some writers count the header itself.
MOST_MISSING_BYTES = 64


# Anything


def load_waveform(audio: Any, sampling_rate: int = 16000, name: str = "audio") -> np.ndarray:
    r"""
    Samples of one clip, mono and at the rate of the model.

    Args:
        audio: One of

            - a path, an `http(s)` URL, the `bytes` of a file or an open file: see `read_audio`;
            - an array, a tensor or a list of floats, one dimension, or two for a clip with two channels, whichever
              comes first; they are at `sampling_rate`;
            - a mapping with `"raw"` or `"array"` (samples as above) and their `"sampling_rate"`;
            - a mapping with `"bytes"` or `"path"`, as `datasets` has it for files that are not decoded;
            - an object with `get_all_samples()`, such as torchcodec's `AudioDecoder`.
        sampling_rate (`int`, defaults to 16000): Rate of the result, in Hz.
        name (`str`, defaults to `"audio"`): What to call the clip in messages.

    Returns:
        `np.ndarray`: float32 samples of shape (samples,), finite and at least one.

    Raises:
        ValueError: whatever is wrong with the audio, by name: no samples, values that are not finite, a shape that
            may be a batch, a rate that is none, a file that is none or is cut off.
        FileNotFoundError: there is no such file.
        ImportError: the extra `audio` is needed and not installed.
    """
    if isinstance(audio, str) and audio.startswith(URL_SCHEMES):
        return read_audio(download_audio(audio), sampling_rate)
    if isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview)) or _is_file(audio):
        return read_audio(audio, sampling_rate)
    if hasattr(audio, "get_all_samples"):
        samples = audio.get_all_samples()
        # torchcodec says which side is which: (channels, samples).
        return _finish(_mix(np.asarray(samples.data), name), int(samples.sample_rate), sampling_rate, name)
    if isinstance(audio, Mapping):
        return _load_mapping(audio, sampling_rate, name)
    return _finish(_mono_from_array(audio, name), sampling_rate, sampling_rate, name)


def _is_file(audio: Any) -> bool:
    return hasattr(audio, "read") and hasattr(audio, "seek")


def _load_mapping(audio: Mapping[str, Any], sampling_rate: int, name: str) -> np.ndarray:
    given = {key: value for key, value in audio.items() if value is not None}
    samples = given.get("raw", given.get("array"))
    if samples is None:
        source = given.get("bytes", given.get("path"))
        if source is None:
            raise ValueError(
                f"{name} is a mapping with {sorted(audio)}; expected 'raw' or 'array' with 'sampling_rate', or "
                "'bytes' or 'path' of a file."
            )
        return load_waveform(source, sampling_rate, name)
    if "raw" in given and "array" in given:
        raise ValueError(f"{name} has both 'raw' and 'array'; expected one of them.")
    if "sampling_rate" not in given:
        raise ValueError(f"{name} has samples without 'sampling_rate'; expected their rate in Hz.")
    return _finish(_mono_from_array(samples, name), given["sampling_rate"], sampling_rate, name)


def _mono_from_array(samples: Any, name: str) -> np.ndarray:
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().to("cpu", torch.float32 if samples.is_floating_point() else None).numpy()
    if not isinstance(samples, (np.ndarray, list, tuple)):
        raise ValueError(
            f"{name} is of type {type(samples).__name__}; expected a path, a URL, bytes, an array, a tensor, a "
            "mapping with 'raw' or 'array' and 'sampling_rate', or an audio decoder."
        )
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise ValueError(f"{name} has rows of different lengths; expected samples of one clip.") from error
    if array.size and array.dtype.kind != "f":
        raise ValueError(
            f"{name} has samples of type {array.dtype}; expected floating-point samples in [-1, 1] (divide integers "
            "by their full scale, 32768 for 16 bits)."
        )
    if array.ndim == 1:
        return array.astype(np.float32, copy=False)
    shape = array.shape
    if array.ndim != 2 or min(shape) > MOST_ARRAY_CHANNELS:
        raise ValueError(
            f"{name} has shape {shape}; expected (samples,), or two dimensions of which one is at most "
            f"{MOST_ARRAY_CHANNELS} channels. A batch is a list of clips."
        )
    if shape[0] == shape[1] == MOST_ARRAY_CHANNELS:
        raise ValueError(f"{name} has shape {shape}: which side is time cannot be told; expected (samples,).")
    return _mix(array if shape[0] <= shape[1] else array.T, name)


def _mix(channels: np.ndarray, name: str) -> np.ndarray:
    """The mean of (channels, samples)."""
    if channels.ndim == 1:
        channels = channels[None]
    if channels.ndim != 2 or channels.shape[0] == 0:
        raise ValueError(f"{name} has shape {channels.shape}; expected (channels, samples).")
    channels = channels.astype(np.float32, copy=False)
    return channels[0] if channels.shape[0] == 1 else channels.mean(axis=0)


def _finish(waveform: np.ndarray, from_sampling_rate: Any, to_sampling_rate: int, name: str) -> np.ndarray:
    """Checked and resampled."""
    is_rate = isinstance(from_sampling_rate, numbers.Real) and not isinstance(from_sampling_rate, bool)
    if not is_rate or not 0 < from_sampling_rate < math.inf or from_sampling_rate != int(from_sampling_rate):
        raise ValueError(
            f"sampling_rate={from_sampling_rate!r} of {name} is not supported; expected a positive integer in Hz."
        )
    if waveform.shape[0] == 0:
        raise ValueError(f"{name} is empty (0 samples); expected at least one sample.")
    is_finite = np.isfinite(waveform)
    if not is_finite.all():
        position = int(np.argmin(is_finite))
        raise ValueError(f"{name} has the value {waveform[position]} at sample {position}; expected finite samples.")
    return _resample(np.ascontiguousarray(waveform), int(from_sampling_rate), to_sampling_rate)


# Files


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
        ValueError: the file is no audio, is cut off, holds no samples or values that are not finite, or lacks the
            wanted channel.
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
    return _finish(waveform, file_sampling_rate, sampling_rate, name)


def download_audio(url: str) -> bytes:
    """
    The bytes behind an `http(s)` URL.

    Raises:
        ValueError: when the server answers with an error, or does not answer.
    """
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as response:
            return response.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ValueError(f"{url} cannot be downloaded; expected the address of an audio file. {error}") from error


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
    """(samples, channels), and their rate."""
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"Reading {name} needs soundfile: {INSTALL_COMMAND}") from error
    _check_wav_is_whole(name, source)
    try:
        # Not `soundfile.read`: it seeks to the start, after which an MP3 decodes to other last bits than NeMo's.
        with soundfile.SoundFile(source) as file:
            samples, announced, is_flac = (
                file.read(dtype="float32", always_2d=True),
                file.frames,
                file.format == "FLAC",
            )
            file_sampling_rate = file.samplerate
    except (soundfile.LibsndfileError, TypeError, RuntimeError) as error:
        formats = "WAV, FLAC, OGG or MP3"
        raise ValueError(f"{name} cannot be decoded; expected {formats}. libsndfile says: {error}") from error
    # Only FLAC says how long it is so that it can be held to it: libsndfile guesses for others, or has counted.
    if is_flac and 0 < samples.shape[0] < announced < LEAST_UNKNOWN_BYTES:
        raise ValueError(f"{name} is cut off: its header announces {announced} samples, {samples.shape[0]} are there.")
    return samples, file_sampling_rate


def _check_wav_is_whole(name: str, source: str | BinaryIO) -> None:
    """Raise where a RIFF header announces more samples than the file has: libsndfile reads what there is, silently."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            announced, found = _wav_data_bytes(file)
    else:
        try:
            start = source.tell()
            announced, found = _wav_data_bytes(source)
            source.seek(start)
        except OSError:
            return  # a stream that cannot be wound back
    if found + MOST_MISSING_BYTES < announced < LEAST_UNKNOWN_BYTES:
        raise ValueError(f"{name} is cut off: its header announces {announced} bytes of samples, {found} are there.")


def _wav_data_bytes(file: BinaryIO) -> tuple[int, int]:
    """Bytes of samples that a RIFF header announces, and those that are there; 0 and 0 for anything else."""
    header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return 0, 0
    while len(header := file.read(8)) == 8:
        size = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            start = file.tell()
            return size, file.seek(0, os.SEEK_END) - start
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0, 0


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
