"""Audio of any form to mono waveforms at the model's rate. Files need the extra `audio` (soundfile, soxr)."""

from __future__ import annotations

import http.client
import io
import math
import numbers
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import torch

from .. import frames

INSTALL_COMMAND = "pip install 'transformers-fastconformer[audio]'"
URL_SCHEMES = ("http://", "https://")
URL_TIMEOUT_SECONDS = 60.0
# Samples of a file that are decoded at a time: 16 s at 16 kHz.
BLOCK_SAMPLES = 262144
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
    file = find_file(audio)
    if file is not None:
        return read_audio(file, sampling_rate)
    if hasattr(audio, "get_all_samples"):
        samples = audio.get_all_samples()
        # torchcodec says which side is which: (channels, samples).
        return _finish(_mix(np.asarray(samples.data), name), int(samples.sample_rate), sampling_rate, name)
    if isinstance(audio, Mapping):
        return _load_mapping(audio, sampling_rate, name)
    return _finish(_mono_from_array(audio, name), sampling_rate, sampling_rate, name)


def find_file(audio: Any) -> Any:
    """The path, URL, bytes or open file of a clip in any form of `load_waveform`; None for one of samples."""
    if isinstance(audio, Mapping):
        given = {key: value for key, value in audio.items() if value is not None}
        source = given.get("bytes", given.get("path"))
        return None if source is None or "raw" in given or "array" in given else find_file(source)
    is_file = hasattr(audio, "read") and hasattr(audio, "seek")
    return audio if is_file or isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview)) else None


def _load_mapping(audio: Mapping[str, Any], sampling_rate: int, name: str) -> np.ndarray:
    given = {key: value for key, value in audio.items() if value is not None}
    samples = given.get("raw", given.get("array"))
    if samples is None:
        raise ValueError(
            f"{name} is a mapping with {sorted(audio)}; expected 'raw' or 'array' with 'sampling_rate', or 'bytes' or "
            "'path' of a file."
        )
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
    resample = _make_resampler(int(from_sampling_rate), to_sampling_rate)
    return resample(np.ascontiguousarray(_check_finite(waveform, name)), True)


def _check_finite(samples: np.ndarray, name: str, position: int = 0) -> np.ndarray:
    """The same samples, the first of which is sample `position` of the clip, if they are finite."""
    is_finite = np.isfinite(samples)
    if not is_finite.all():
        first = int(np.argmin(is_finite))
        raise ValueError(
            f"{name} has the value {samples[first]} at sample {position + first}; expected finite samples."
        )
    return samples


# Files


class AudioFile:
    """
    An audio file (WAV, FLAC, OGG, MP3 and whatever else libsndfile reads) whose samples come a block at a time.

    Its samples are never in memory all at once. What cannot be wound back, a URL or a pipe, is first copied to a
    temporary file, which `close` or the end of a `with` removes.

    Args:
        audio (`str`, `os.PathLike`, `bytes` or a binary file object): A path, an `http(s)` URL, the bytes of a file,
            or an open file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: for a folder, a file of 0 bytes and a URL that cannot be downloaded.
    """

    def __init__(self, audio: str | os.PathLike[str] | bytes | BinaryIO) -> None:
        self._temporary: BinaryIO | None = None
        self._start = 0
        self._source: str | BinaryIO
        if isinstance(audio, str) and audio.startswith(URL_SCHEMES):
            self.name, self._source = repr(audio), self._spool(partial(_download, audio))
        else:
            self.name, source = _open(audio)
            if not isinstance(source, str) and not (hasattr(source, "seekable") and source.seekable()):
                source = self._spool(partial(shutil.copyfileobj, source))
            if not isinstance(source, str):
                self._start = source.tell()
            self._source = source

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was copied; a file that was given open stays open."""
        if self._temporary is not None:
            self._temporary.close()

    def _spool(self, write: Callable[[BinaryIO], None]) -> BinaryIO:
        self._temporary = tempfile.TemporaryFile()  # noqa: SIM115  (`close` is for that)
        try:
            write(self._temporary)
        except BaseException:
            self._temporary.close()
            raise
        self._temporary.seek(0)
        return self._temporary

    def blocks(self, sampling_rate: int = 16000, channels: str | int = "mix") -> Iterator[np.ndarray]:
        """
        The samples from the start, mono and resampled with soxr at high quality; the same in every pass.

        Args:
            sampling_rate: Rate of the result, in Hz.
            channels: `"mix"` averages the channels, a number takes that one.

        Returns:
            float32 samples in [-1, 1], each of shape (samples,), which may be 0.

        Raises:
            ValueError: the file is no audio, is cut off, holds no samples or values that are not finite, or lacks the
                wanted channel.
            ImportError: the extra `audio` is not installed; the message holds the command.
        """
        if not (channels == "mix" or (isinstance(channels, int) and not isinstance(channels, bool))):
            raise ValueError(f"channels={channels!r} is not supported; expected 'mix' or the number of a channel.")
        return self._decode(sampling_rate, channels)

    def _decode(self, sampling_rate: int, channels: str | int) -> Iterator[np.ndarray]:
        soundfile = import_soundfile(self.name)
        sound_file_class: Any = soundfile.SoundFile

        class SequentialFile(sound_file_class):
            """After every block `SoundFile` seeks to where it is, which makes an MP3 decode to other samples."""

            def seekable(self) -> bool:
                return False

        if not isinstance(self._source, str):
            self._source.seek(self._start)
        _check_wav_is_whole(self.name, self._source)
        errors = (soundfile.LibsndfileError, TypeError, RuntimeError)
        try:
            file = SequentialFile(self._source)
        except errors as error:
            raise self._undecodable(error) from error
        with file:
            resample = _make_resampler(file.samplerate, sampling_rate)
            position = 0
            while True:
                try:
                    samples = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)  # (samples, channels)
                except errors as error:
                    raise self._undecodable(error) from error
                if samples.shape[0] == 0:
                    break
                yield resample(_check_finite(self._pick(samples, channels), self.name, position), False)
                position += samples.shape[0]
            # Only FLAC says its length so that it can be held to it: libsndfile guesses for others, or has counted.
            announced = file.frames if file.format == "FLAC" else 0
        if position == 0:
            raise ValueError(f"{self.name} is an audio file without samples.")
        if position < announced < LEAST_UNKNOWN_BYTES:
            raise ValueError(
                f"{self.name} is cut off: its header announces {announced} samples, {position} are there."
            )
        yield resample(np.zeros(0, dtype=np.float32), True)

    def _pick(self, samples: np.ndarray, channels: str | int) -> np.ndarray:
        """(samples, channels) to (samples,)."""
        num_channels = samples.shape[1]
        if channels == "mix":
            return samples[:, 0] if num_channels == 1 else samples.mean(axis=1)
        if not 0 <= int(channels) < num_channels:
            raise ValueError(
                f"channels={channels} of {self.name} does not exist; it has channels 0 to {num_channels - 1}."
            )
        return samples[:, int(channels)]

    def _undecodable(self, error: Exception) -> ValueError:
        formats = "WAV, FLAC, OGG or MP3"
        return ValueError(f"{self.name} cannot be decoded; expected {formats}. libsndfile says: {error}")


def read_audio(
    audio: str | os.PathLike[str] | bytes | BinaryIO, sampling_rate: int = 16000, channels: str | int = "mix"
) -> np.ndarray:
    r"""
    Decode an audio file (WAV, FLAC, OGG, MP3 and whatever else libsndfile reads), make it mono and resample it.

    Args:
        audio (`str`, `os.PathLike`, `bytes` or a binary file object): A path, an `http(s)` URL, the bytes of a file,
            or an open file.
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
    with AudioFile(audio) as file:
        return np.concatenate(list(file.blocks(sampling_rate, channels)))


def import_soundfile(name: str) -> Any:
    """
    The module soundfile.

    Args:
        name: What the file that needs it is called in messages.

    Raises:
        ImportError: the extra `audio` is not installed; the message holds the command.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"Reading {name} needs soundfile: {INSTALL_COMMAND}") from error
    return soundfile


def download_audio(url: str) -> bytes:
    """
    The bytes behind an `http(s)` URL.

    Raises:
        ValueError: when the server answers with an error, or does not answer.
    """
    target = io.BytesIO()
    _download(url, target)
    return target.getvalue()


def _download(url: str, target: BinaryIO) -> None:
    """Write what is behind an `http(s)` URL to a file; a server that errs or does not answer is a ValueError."""
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as response:
            shutil.copyfileobj(response, target)
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


def _make_resampler(from_sampling_rate: int, to_sampling_rate: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """
    A function of the next samples of a clip, and whether they are its last, to as many resampled ones as are ready.

    All together they are what soxr makes of the whole clip, to the last bit.
    """
    if from_sampling_rate == to_sampling_rate:
        return lambda samples, is_last: samples
    try:
        import soxr
    except ImportError as error:
        rates = f"{from_sampling_rate} Hz to {to_sampling_rate} Hz"
        raise ImportError(f"Resampling from {rates} needs soxr: {INSTALL_COMMAND}") from error
    stream = soxr.ResampleStream(from_sampling_rate, to_sampling_rate, 1, dtype="float32", quality="HQ")
    num_taken = num_given = 0

    def resample(samples: np.ndarray, is_last: bool) -> np.ndarray:
        nonlocal num_taken, num_given
        resampled = stream.resample_chunk(np.ascontiguousarray(samples), last=is_last)
        num_taken += samples.shape[0]
        num_given += resampled.shape[0]
        if not is_last:
            return resampled
        # soxr rounds the length to the nearest sample; the duration is kept to the sample above, filled with silence.
        missing = frames.resampled_samples(num_taken, from_sampling_rate, to_sampling_rate) - num_given
        return np.pad(resampled, (0, missing)) if missing >= 0 else resampled[:missing]

    return resample
