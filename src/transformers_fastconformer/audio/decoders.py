"""
Samples of the sections of a file: libsndfile reads what it reads rightly, FFmpeg's libraries (PyAV) all else.

Both come with the extra `audio`. What they are given was looked at before, see `containers`: libsndfile guesses the
length of an MP3 without a table and reads only the first of several, and mpg123 in it writes on the terminal where
something is wrong.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from ..validation import is_number
from .quiet import c_library_is_quiet
from .resampling import INSTALL_COMMAND
from .sections import CutOffError, Section, length_of
from .windows import Window, read_at

# Samples per second that recordings have: seismographs are below, and 768 kHz is the highest that converters reach.
MIN_SAMPLING_RATE = 1000
MAX_SAMPLING_RATE = 768_000
# As many as libsndfile takes.
MAX_CHANNELS = 1024
# Of one block of samples, all channels together.
MAX_BLOCK_BYTES = 1 << 26
SAMPLE_BYTES = 4
MAX_FRAMES = 1 << 62
# Containers that libsndfile is asked for first.
SNDFILE_CONTAINERS = (
    *("WAV", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3", "VOC", "IFF"),
    *("AVR", "MAT4", "MAT5", "PVF", "PAF", "IRCAM", ""),
)
# Containers whose header has the length.
TIMED_CONTAINERS = ("MP4", "Matroska", "ASF", "AVI")
# What FFmpeg may take a file for. Formats that name other files (play lists, cut lists) are not among them.
FFMPEG_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,dv,flac,flv,g723_1,gsm,loas,matroska,webm,mov,mp4,m4a,3gp,"
    "3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mxf,nut,ogg,oma,opus,qcp,rm,sox,spdif,swf,tak,truehd,tta,voc,w64,wav,"
    "wtv,wv,xwma,adp,aea,alaw,mulaw,bit,ivf,live_flv,obu,svag,vag,wsd,dsf,iff,lvf,mtv,nsv,nistsphere,rso,smjpeg,vqf"
)
# Of these, those that are read from their start on without going back.
FORWARD_FORMATS = "aac,ac3,aiff,amr,au,eac3,flac,matroska,mp3,mpegts,ogg,w64,webm"
# What FFmpeg may read before it gives the first sample of a pipe.
FORWARD_PROBE_BYTES = 1 << 16
FORMATS_TEXT = "audio such as WAV, FLAC, OGG, MP3, M4A or WebM"


class Decoded(NamedTuple):
    """
    The next samples of a file.

    Args:
        sampling_rate: Their rate, in Hz; it may change between sections.
        samples: (samples, channels), float32.
    """

    sampling_rate: int
    samples: np.ndarray


class Measured(NamedTuple):
    """
    Length and channels of a section, from its header.

    Args:
        seconds: Length; None: it is not known without decoding.
        num_channels: Channels.
        is_exact: The length is that of the samples, not what the container says of all its streams.
    """

    seconds: float | None
    num_channels: int
    is_exact: bool


def check_sampling_rate(sampling_rate: Any, name: str) -> int:
    """
    The rate of samples as an integer; a tensor or an array that holds one number will do.

    Raises:
        ValueError: for anything but an integer within the limits.
    """
    rate = sampling_rate
    if hasattr(rate, "item") and getattr(rate, "ndim", None) == 0:
        rate = rate.item()
    if not is_number(rate) or rate <= 0 or rate != int(rate):
        raise ValueError(
            f"sampling_rate={sampling_rate!r} of {name} is not supported; expected a positive integer in Hz."
        )
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise ValueError(
            f"sampling_rate={rate} of {name} is not supported; expected {MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} Hz."
        )
    return int(rate)


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


def import_av(name: str) -> Any:
    """The module av (PyAV), otherwise like `import_soundfile`."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"Reading {name} needs av: {INSTALL_COMMAND}") from error
    return av


def decode(
    name: str, file: BinaryIO, path: str | None, sections: Sequence[Section], block_samples: int
) -> Iterator[Decoded]:
    """
    All samples of a file, a block at a time.

    Args:
        name: What to call the file in messages.
        file: The open file.
        path: Its path; None: it has none.
        sections: Sections of it, see `find_sections`.
        block_samples: Samples of a block, at most.

    Raises:
        ValueError: for what is not audio, for a section that gives fewer samples than it announces, and for a rate or
            a number of channels outside the limits.
        ImportError: the extra `audio` is not installed; the message holds the command.
    """
    for section in sections:
        num_samples = 0
        for decoded in _decode_section(name, file, path, section, len(sections) == 1, block_samples):
            num_samples += decoded.samples.shape[0]
            yield decoded
        if num_samples < section.min_samples:
            raise CutOffError(
                f"{name} is cut off: its header announces {section.num_samples} samples, {num_samples} are there."
            )


def _decode_section(
    name: str, file: BinaryIO, path: str | None, section: Section, is_only: bool, block_samples: int
) -> Iterator[Decoded]:
    opened = _open_sound_file(name, file, path, section, is_only)
    if not isinstance(opened, Exception):
        return _decode_sound_file(name, opened, block_samples)
    return _decode_by_ffmpeg(name, file, section, block_samples, opened)


class _NoSoundFileError(Exception):
    """The reason for which libsndfile was not asked."""


def _open_sound_file(name: str, file: BinaryIO, path: str | None, section: Section, is_only: bool) -> Any:
    """The section as an open `SoundFile`, or the error for which libsndfile does not read it."""
    if section.container not in SNDFILE_CONTAINERS:
        return _NoSoundFileError()
    head = read_at(file, section.start, 3)
    if not section.container and (head == b"ID3" or head[:1] == b"\xff"):
        return _NoSoundFileError()  # mpg123 would search it, and write on the terminal
    soundfile = import_soundfile(name)
    sound_file_class: Any = soundfile.SoundFile

    class SequentialFile(sound_file_class):
        """After every block `SoundFile` seeks to where it is, which makes an MP3 decode to other samples."""

        def seekable(self) -> bool:
            return False

    is_whole = is_only and section.start == 0 and section.stop == length_of(file)
    is_plain = is_whole and not section.patches and section.container != "MP3"
    # A name that is not UTF-8 can only be opened by its bytes; Windows does not have such names.
    source: Any = path if path is None or os.name == "nt" else os.fsencode(path)
    if path is None or not is_plain:
        has_unknown_length = section.container == "MP3" and not section.is_announced
        source = Window(file, section.start, section.stop, section.patches, has_unknown_length)
    try:
        with c_library_is_quiet():
            return SequentialFile(source)
    except (soundfile.LibsndfileError, TypeError, RuntimeError, OSError) as error:
        return error


def _decode_sound_file(name: str, opened: Any, block_samples: int) -> Iterator[Decoded]:
    soundfile = import_soundfile(name)
    with opened:
        rate = check_sampling_rate(opened.samplerate, name)
        num_wanted = limit_block(block_samples, opened.channels, name)
        while True:
            try:
                with c_library_is_quiet():
                    samples = opened.read(num_wanted, dtype="float32", always_2d=True)  # (samples, channels)
            except (soundfile.LibsndfileError, TypeError, RuntimeError, OSError) as error:
                raise undecodable(name, f"libsndfile says: {_reason(error)}") from error
            if samples.shape[0] == 0:
                return
            yield Decoded(rate, samples)


def limit_block(block_samples: int, num_channels: int, name: str) -> int:
    """
    Samples of a block of so many channels.

    Raises:
        ValueError: for more channels than anything has.
    """
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise ValueError(f"{name} has {num_channels} channels; expected 1 to {MAX_CHANNELS}.")
    return max(min(block_samples, MAX_BLOCK_BYTES // (SAMPLE_BYTES * num_channels)), 1)


def _reason(error: Exception) -> str:
    """The words of libsndfile, without the object or path that soundfile was given."""
    return str(getattr(error, "error_string", None) or error)


def undecodable(name: str, reason: str) -> ValueError:
    """The error for what no decoder reads."""
    return ValueError(f"{name} cannot be decoded; expected {FORMATS_TEXT}. {reason}")


# FFmpeg


@contextmanager
def _ffmpeg_errors(name: str, av: Any, reasons: str) -> Iterator[None]:
    """Turn what PyAV throws into an error that names the file."""
    try:
        yield
    except (av.FFmpegError, OSError, EOFError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, ValueError) and name in str(error):
            raise
        says = getattr(error, "strerror", None) or error
        if getattr(error, "errno", None) == errno.ENOMEM:
            says = "it declares more than can be held in memory"
        raise undecodable(name, f"{reasons}FFmpeg says: {says}") from error


@contextmanager
def _open_by_ffmpeg(name: str, file: BinaryIO, section: Section, reasons: str) -> Iterator[tuple[Any, Any]]:
    """The section as an open container of PyAV and its stream of sound."""
    av = import_av(name)
    window = Window(file, section.start, section.stop, section.patches)
    with _ffmpeg_errors(name, av, reasons):
        options = {"format_whitelist": FFMPEG_FORMATS, "protocol_whitelist": "none"}
        with av.open(window, "r", metadata_errors="replace", options=options) as container:
            stream = container.streams.best("audio")
            if stream is None:
                raise ValueError(f"{name} has no sound; expected {FORMATS_TEXT}, or a video with sound.")
            yield container, stream


def _decode_by_ffmpeg(
    name: str, file: BinaryIO, section: Section, block_samples: int, refusal: Exception
) -> Iterator[Decoded]:
    reasons = "" if isinstance(refusal, _NoSoundFileError) else f"libsndfile says: {_reason(refusal)} "
    with _open_by_ffmpeg(name, file, section, reasons) as (container, stream):
        held: list[np.ndarray] = []
        num_held = rate = num_channels = 0
        for frame in _frames(name, container, stream):
            samples = _to_float(frame)
            num_wanted = limit_block(block_samples, samples.shape[1], name)
            is_other = (frame.sample_rate, samples.shape[1]) != (rate, num_channels)
            if held and (is_other or num_held + samples.shape[0] > num_wanted):
                yield Decoded(rate, np.concatenate(held))
                held, num_held = [], 0
            rate, num_channels = check_sampling_rate(frame.sample_rate, name), samples.shape[1]
            held.append(samples)
            num_held += samples.shape[0]
        if held:
            yield Decoded(rate, np.concatenate(held))


class ForwardStream(Protocol):
    """Bytes that can only be read once, in order."""

    def read(self, num_bytes: int, /) -> bytes:
        """At most so many bytes, as soon as there are some; none at the end."""


def decode_forwards(name: str, stream: ForwardStream) -> Iterator[Decoded]:
    """
    All samples of a container that comes through a pipe, frame by frame as they come.

    Args:
        name: What to call it in messages.
        stream: Its bytes.

    Raises:
        ValueError: for what is not audio, is cut off, or cannot be read without going back.
        ImportError: the extra `audio` is not installed; the message holds the command.
    """
    av = import_av(name)
    with _ffmpeg_errors(name, av, "Raw samples need their encoding. "):
        options = {
            "format_whitelist": FORWARD_FORMATS,
            "protocol_whitelist": "none",
            "probesize": str(FORWARD_PROBE_BYTES),
        }
        with av.open(stream, "r", metadata_errors="replace", options=options) as container:
            sound = container.streams.best("audio")
            if sound is None:
                raise ValueError(f"{name} has no sound; expected {FORMATS_TEXT}.")
            for frame in _frames(name, container, sound):
                samples = _to_float(frame)
                limit_block(samples.shape[0], samples.shape[1], name)
                yield Decoded(check_sampling_rate(frame.sample_rate, name), samples)


def _frames(name: str, container: Any, stream: Any) -> Iterator[Any]:
    """All frames of a stream; a packet of which a part is missing is an error."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise CutOffError(f"{name} is cut off or damaged: a part is missing at {_seconds_of(packet)} s.")
        yield from packet.decode()


def _seconds_of(packet: Any) -> str:
    return "?" if packet.pts is None or packet.time_base is None else f"{float(packet.pts * packet.time_base):.2f}"


def _to_float(frame: Any) -> np.ndarray:
    """Samples of a frame of PyAV, (samples, channels), float32, integers divided by their full scale."""
    array = frame.to_ndarray()
    num_channels = frame.layout.nb_channels
    by_sample = array.T if frame.format.is_planar else array.reshape(-1, num_channels)
    if by_sample.dtype.kind == "f":
        return np.ascontiguousarray(by_sample, dtype=np.float32)
    if by_sample.dtype == np.uint8:
        return (by_sample.astype(np.float32) - 128) / np.float32(128)
    return (by_sample / float(2 ** (8 * by_sample.dtype.itemsize - 1))).astype(np.float32)


# Headers and parts


def measure(name: str, file: BinaryIO, path: str | None, section: Section, is_only: bool) -> Measured:
    """
    Length and channels of a section, without decoding it.

    Raises:
        ValueError: for what is not audio.
        ImportError: the extra `audio` is not installed; the message holds the command.
    """
    opened = _open_sound_file(name, file, path, section, is_only)
    if not isinstance(opened, Exception):
        with opened:
            is_known = section.container != "MP3" and section.is_announced and opened.frames < MAX_FRAMES
            if section.container == "MP3" and section.is_announced:
                is_known = True
            if is_known:
                return Measured(opened.frames / opened.samplerate, opened.channels, section.container != "MP3")
            if section.num_samples is not None:
                return Measured(section.num_samples / opened.samplerate, opened.channels, False)
            return Measured(None, opened.channels, False)
    with _open_by_ffmpeg(name, file, section, "") as (container, stream):
        seconds = container.duration / 1e6 if container.duration and section.container in TIMED_CONTAINERS else None
        return Measured(seconds, stream.codec_context.layout.nb_channels, False)


def decode_from(
    name: str, file: BinaryIO, path: str | None, section: Section, start_seconds: float, block_samples: int
) -> Iterator[Decoded]:
    """Samples of the only section of a file whose length is exact, from a time on, found without reading the rest."""
    opened = _open_sound_file(name, file, path, section, True)
    soundfile = import_soundfile(name)
    if isinstance(opened, Exception):
        raise undecodable(name, f"libsndfile says: {_reason(opened)}") from opened
    try:
        soundfile.SoundFile.seek(opened, round(start_seconds * opened.samplerate))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        opened.close()
        raise undecodable(name, f"libsndfile says: {_reason(error)}") from error
    return _decode_sound_file(name, opened, block_samples)
