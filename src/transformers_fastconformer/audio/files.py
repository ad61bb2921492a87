"""Audio of any form to mono waveforms at the model's rate. Files need the extra `audio` (soundfile, soxr)."""

from __future__ import annotations

import http.client
import io
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import torch

from ..validation import is_number
from .clips import check_channels, check_finite, mono_clip, take_channels
from .resampling import INSTALL_COMMAND, make_resampler

URL_SCHEMES = ("http://", "https://")
URL_TIMEOUT_SECONDS = 60.0
# Samples of a file that are decoded at a time: 16 s at 16 kHz.
BLOCK_SAMPLES = 262144
# What writers put into a WAV header when they do not know the length: 0, or the greatest numbers there are.
MIN_UNKNOWN_BYTES = 0x7FFF0000
# Headers that are wrong by so little lose no sound: some writers count the header itself.
MAX_MISSING_BYTES = 64


# Audio of any form


def load_waveform(audio: Any, sampling_rate: int = 16000, name: str = "audio") -> np.ndarray:
    r"""
    Samples of one clip, mono and at the rate of the model.

    Args:
        audio: One of

            - a path, an `http(s)` URL, the `bytes` of a file or an open file: see `read_audio`;
            - an array, a tensor or a list of floats, one dimension, or two for a clip with two channels, whichever
              comes first (see [`~audio.clips.mono_clip`]); they are at `sampling_rate`;
            - a mapping with `"raw"` or `"array"` (samples as above) and their `"sampling_rate"`;
            - a mapping with `"bytes"` or `"path"`, as `datasets` has it for files that are not decoded;
            - an object with `get_all_samples()`, such as torchcodec's `AudioDecoder`.
        sampling_rate (`int`, defaults to 16000): Rate of the result, in Hz.
        name (`str`, defaults to `"audio"`): What to call the clip in messages.

    Returns:
        `np.ndarray`: float32 samples of shape (samples,), finite and at least one.

    Raises:
        ValueError: whatever is wrong with the audio, by name: no samples, values that are not finite, a shape that
            may be a batch, something that is not a rate, a file that is not audio or is cut off.
        FileNotFoundError: there is no such file.
        ImportError: the extra `audio` is needed and not installed.
    """
    file = find_file(audio)
    if file is not None:
        return read_audio(file, sampling_rate)
    if hasattr(audio, "get_all_samples"):
        samples = audio.get_all_samples()
        return _finish(_mono_from_decoder(samples.data, name), int(samples.sample_rate), sampling_rate, name)
    if isinstance(audio, Mapping):
        return _load_mapping(audio, sampling_rate, name)
    return _finish(_mono_array(audio, name), sampling_rate, sampling_rate, name)


def find_file(audio: Any) -> Any:
    """The path, URL, bytes or open file of a clip in any form of `load_waveform`; None for a clip that is samples."""
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
    return _finish(_mono_array(samples, name), given["sampling_rate"], sampling_rate, name)


def _mono_array(samples: Any, name: str) -> np.ndarray:
    """Samples of one clip in an array, a tensor or a list, (samples,)."""
    if not isinstance(samples, (np.ndarray, torch.Tensor, list, tuple)):
        raise ValueError(
            f"{name} is of type {type(samples).__name__}; expected a path, a URL, bytes, an array, a tensor, a "
            "mapping with 'raw' or 'array' and 'sampling_rate', or an audio decoder."
        )
    return mono_clip(samples, name).cpu().numpy()


def _mono_from_decoder(samples: Any, name: str) -> np.ndarray:
    """Samples that torchcodec decoded, whose shape is (channels, samples), as (samples,)."""
    decoded = np.asarray(samples, dtype=np.float32)
    if decoded.ndim == 1:
        decoded = decoded[None]
    if decoded.ndim != 2 or decoded.shape[0] == 0:
        raise ValueError(f"{name} has shape {decoded.shape}; expected (channels, samples).")
    return take_channels(decoded.T, "mix", name)


def _finish(waveform: np.ndarray, from_sampling_rate: Any, to_sampling_rate: int, name: str) -> np.ndarray:
    """The waveform, checked and resampled."""
    is_rate = is_number(from_sampling_rate) and from_sampling_rate > 0
    if not is_rate or from_sampling_rate != int(from_sampling_rate):
        raise ValueError(
            f"sampling_rate={from_sampling_rate!r} of {name} is not supported; expected a positive integer in Hz."
        )
    if waveform.shape[0] == 0:
        raise ValueError(f"{name} is empty (0 samples); expected at least one sample.")
    waveform = np.ascontiguousarray(waveform)
    check_finite(torch.from_numpy(waveform)[None], [name])
    return make_resampler(int(from_sampling_rate), to_sampling_rate)(waveform, True)


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
        """Remove what was copied; a file that was open before stays open."""
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
            ValueError: the file is not audio, is cut off, holds no samples or values that are not finite, or lacks
                the wanted channel.
            ImportError: the extra `audio` is not installed; the message holds the command.
        """
        check_channels(channels)
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
            resample = make_resampler(file.samplerate, sampling_rate)
            position = 0
            while True:
                try:
                    samples = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)  # (samples, channels)
                except errors as error:
                    raise self._undecodable(error) from error
                if samples.shape[0] == 0:
                    break
                mono = take_channels(samples, channels, self.name)
                check_finite(torch.from_numpy(mono)[None], [self.name], position)
                yield resample(mono, False)
                position += samples.shape[0]
            # Only FLAC says its length so that it can be held to it: libsndfile guesses for others, or has counted.
            announced = file.frames if file.format == "FLAC" else 0
        if position == 0:
            raise ValueError(f"{self.name} is an audio file without samples.")
        if position < announced < MIN_UNKNOWN_BYTES:
            raise ValueError(
                f"{self.name} is cut off: its header announces {announced} samples, {position} are there."
            )
        yield resample(np.zeros(0, dtype=np.float32), True)

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
        ValueError: the file is not audio, is cut off, holds no samples or values that are not finite, or lacks the
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
    The bytes that an `http(s)` URL names.

    Raises:
        ValueError: when the server answers with an error, or does not answer.
    """
    target = io.BytesIO()
    _download(url, target)
    return target.getvalue()


def _download(url: str, target: BinaryIO) -> None:
    """Write what an `http(s)` URL names to a file; a server that errs or does not answer is a ValueError."""
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
    if found + MAX_MISSING_BYTES < announced < MIN_UNKNOWN_BYTES:
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
