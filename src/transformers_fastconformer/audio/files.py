"""Audio of any form to mono waveforms at the model's rate. Files need the extra `audio` (soundfile, soxr, av)."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from .clips import check_channels, check_samples, is_rate_and_samples, mono_clip, take_channels
from .containers import find_sections
from .decoders import Decoded, check_sampling_rate, decode, decode_from, measure
from .downloads import copy_stream, download, is_url, local_path, named
from .resampling import make_resampler

# Samples of a file that are decoded at a time: 16 s at 16 kHz.
BLOCK_SAMPLES = 262144
SPECIAL_FILES = (
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


class Header(NamedTuple):
    """
    Length and channels of a file, as its header has them.

    Args:
        seconds: Length; None: it is not known without decoding.
        num_channels: Channels, of the first where several files stand in one.
        is_exact: Parts may be found by this length.
    """

    seconds: float | None
    num_channels: int
    is_exact: bool = False


# Audio of any form


def load_waveform(audio: Any, sampling_rate: int = 16000, name: str = "audio") -> np.ndarray:
    r"""
    Samples of one clip, mono and at the rate of the model.

    Args:
        audio: One of

            - a path, an `http(s)` or `file` URL, the `bytes` of a file or an open file: see `read_audio`;
            - an array or tensor of floats or 16-bit integers, or a list of floats, one dimension, or two for a clip
              with two channels, whichever comes first (see [`~audio.clips.mono_clip`]); they are at `sampling_rate`;
            - a pair of a rate and samples, as Gradio has it;
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
        return _finish(_mono_from_decoder(samples.data, name), samples.sample_rate, sampling_rate, name)
    if isinstance(audio, Mapping):
        return _load_mapping(audio, sampling_rate, name)
    if is_rate_and_samples(audio):
        return _finish(_mono_array(audio[1], name), audio[0], sampling_rate, name)
    return _finish(_mono_array(audio, name), sampling_rate, sampling_rate, name)


def find_file(audio: Any) -> Any:
    """The path, URL, bytes or open file of a clip in any form of `load_waveform`; None for a clip that is samples."""
    if isinstance(audio, Mapping):
        given = {key: value for key, value in audio.items() if value is not None}
        source = given.get("bytes", given.get("path"))
        return None if source is None or "raw" in given or "array" in given else find_file(source)
    audio = local_path(audio)
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
    rate = check_sampling_rate(from_sampling_rate, name)
    if waveform.shape[0] == 0:
        raise ValueError(f"{name} is empty (0 samples); expected at least one sample.")
    waveform = np.ascontiguousarray(waveform)
    check_samples(torch.from_numpy(waveform)[None], [name])
    return make_resampler(rate, to_sampling_rate)(waveform, True)


# Files


class AudioFile:
    """
    An audio or video file, in any format that libsndfile or FFmpeg reads, whose samples come a block at a time.

    Its samples are never in memory all at once. What cannot be wound back, a URL or a pipe, is first copied to a
    temporary file, which `close` or the end of a `with` removes.

    Args:
        audio (`str`, `os.PathLike`, `bytes` or a binary file object): A path, an `http(s)` or `file` URL, the bytes of
            a file, or an open file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: for a folder, a named pipe or device, a file of 0 bytes and a URL that cannot be downloaded whole.
        OSError: the copy cannot be written.
    """

    def __init__(self, audio: str | os.PathLike[str] | bytes | BinaryIO) -> None:
        self._temporary: BinaryIO | None = None
        self._start = 0
        self._source: str | BinaryIO
        if isinstance(audio, str) and is_url(audio):
            self.name = repr(audio)
            self._source = self._spool(partial(download, audio))
        else:
            self.name, source = _open(audio)
            if not isinstance(source, str) and not (hasattr(source, "seekable") and source.seekable()):
                source = self._spool(partial(copy_stream, source, name=self.name))
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
        try:
            self._temporary = tempfile.TemporaryFile()  # noqa: SIM115  (`close` is for that)
        except OSError as error:
            raise named(error, f"{self.name} cannot be copied to a temporary file") from error
        try:
            write(self._temporary)
            if self._temporary.tell() == 0:
                raise ValueError(f"{self.name} is empty (0 bytes); expected an audio file.")
            self._temporary.seek(0)
        except BaseException:
            with suppress(OSError):  # what was not written yet does not fit on the disk either
                self._temporary.close()
            raise
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

    def measure(self) -> Header:
        """
        Length and channels as the header of the file has them, without decoding it.

        Raises:
            ValueError: the file is not audio, or is cut off.
            ImportError: the extra `audio` is not installed; the message holds the command.
        """
        with self._opened() as (file, path):
            sections = find_sections(self.name, file, self._start)
            measured = [measure(self.name, file, path, section, len(sections) == 1) for section in sections]
        known = [found.seconds for found in measured if found.seconds is not None]
        seconds = sum(known) if len(known) == len(measured) else None
        return Header(seconds, measured[0].num_channels, len(measured) == 1 and measured[0].is_exact)

    def decoded(self, start_seconds: float | None = None) -> Iterator[Decoded]:
        """
        The samples as they are in the file, all channels at the file's rate.

        Args:
            start_seconds: Where to begin, in a file whose header is exact; None: at the start.

        Raises:
            ValueError: the file is not audio, or is cut off.
            ImportError: the extra `audio` is not installed; the message holds the command.
        """
        with self._opened() as (file, path):
            sections = find_sections(self.name, file, self._start)
            if start_seconds is None:
                yield from decode(self.name, file, path, sections, BLOCK_SAMPLES)
            else:
                yield from decode_from(self.name, file, path, sections[0], start_seconds, BLOCK_SAMPLES)

    @contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, str | None]]:
        if isinstance(self._source, str):
            with open(self._source, "rb") as file:
                yield file, self._source
        else:
            yield self._source, None

    def _decode(self, sampling_rate: int, channels: str | int) -> Iterator[np.ndarray]:
        resample: Callable[[np.ndarray, bool], np.ndarray] | None = None
        rate = position = 0
        nothing = np.zeros(0, dtype=np.float32)
        for decoded in self.decoded():
            if decoded.sampling_rate != rate:
                if resample is not None:
                    yield resample(nothing, True)
                rate = decoded.sampling_rate
                resample = make_resampler(rate, sampling_rate)
            assert resample is not None
            mono = take_channels(decoded.samples, channels, self.name)
            check_samples(torch.from_numpy(mono)[None], [self.name], position)
            yield resample(mono, False)
            position += mono.shape[0]
        if resample is None:
            raise ValueError(f"{self.name} is an audio file without samples.")
        yield resample(nothing, True)


def read_audio(
    audio: str | os.PathLike[str] | bytes | BinaryIO, sampling_rate: int = 16000, channels: str | int = "mix"
) -> np.ndarray:
    r"""
    Decode an audio or video file (whatever libsndfile or FFmpeg reads), make it mono and resample it.

    Args:
        audio (`str`, `os.PathLike`, `bytes` or a binary file object): A path, an `http(s)` or `file` URL, the bytes of
            a file, or an open file.
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


def _open(audio: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[str, str | BinaryIO]:
    """The name to use in messages, and what is read."""
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return f"audio of {len(audio)} bytes", io.BytesIO(audio)
    if isinstance(audio, (str, os.PathLike)):
        path = os.fspath(local_path(audio))
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{path!r} does not exist; expected an audio file.") from None
        except ValueError as error:
            raise ValueError(f"{path!r} is no path: {error}; expected an audio file.") from error
        except OSError as error:
            raise named(error, f"{path!r} cannot be read") from error
        if stat.S_ISDIR(found.st_mode):
            raise ValueError(f"{path!r} is a folder; expected an audio file.")
        if not stat.S_ISREG(found.st_mode):
            kind = next((kind for is_kind, kind in SPECIAL_FILES if is_kind(found.st_mode)), "special file")
            raise ValueError(f"{path!r} is a {kind}; expected an audio file, or a pipe that is open already.")
        if found.st_size == 0:
            raise ValueError(f"{path!r} is empty (0 bytes); expected an audio file.")
        return repr(path), path
    if hasattr(audio, "read"):
        return repr(getattr(audio, "name", "open file")), audio
    raise ValueError(f"audio is of type {type(audio).__name__}; expected a path, bytes or an open binary file.")
