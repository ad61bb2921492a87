"""Reading ahead: threads read clips and compute their features while the model works."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..audio.clips import check_channels, is_rate_and_samples
from ..audio.decoders import check_sampling_rate, import_soundfile
from ..audio.downloads import is_url, named
from ..audio.files import AudioFile, find_file, load_waveform
from ..audio.parts import read_header, read_part
from ..audio.voice_activity import DETECTOR_SAMPLING_RATE, VoiceActivityOptions
from ..validation import is_number, reading
from .clip_features import AudioSource, ClipFeatures, FrontEnd
from .file import SampleSource
from .speech_parts import ClipSpeech, extract_parts, find_speech

# Longer clips are not packed: one keeps the model busy, and `transcribe_source` chooses a strategy that fits memory.
PACKED_SECONDS = 60.0
# Reading a clip does not take longer, unless a server does not answer.
MAX_CLOSING_SECONDS = 5.0
# No recording is longer: a header that says so does not know the length.
MAX_PLAUSIBLE_SECONDS = 30 * 86400.0
# Errors of one clip that do not concern the others: its file, or too little memory for it.
CLIP_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class AudioClip:
    """
    A recording or a part of one.

    Args:
        source: A path, an `http(s)` URL, the bytes of a file, an open file, an array or tensor (at the rate of the
            model), a mapping with `"array"` and `"sampling_rate"`, an audio decoder, or a clip that `prepare_clip` has
            read already.
        channel: `"mix"` (default) for the mean of the channels, or the number of one, from 0.
        start_seconds: Start of the part in the file, 0 by default; only for local files.
        seconds: Length of the part; None (default): to the end of the file.
        label: Name of the clip in messages; None (default): its source.

    Raises:
        ValueError: for a start below 0, and for a length that is not above 0.
    """

    source: Any
    channel: int | str = "mix"
    start_seconds: float = 0.0
    seconds: float | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        check_channels(self.channel)
        start, seconds = self.start_seconds, self.seconds
        if not (is_number(start) and start >= 0):
            raise ValueError(f"offset={start!r} of {self.name} is not supported; expected seconds, 0 or more.")
        if not (seconds is None or (is_number(seconds) and seconds > 0)):
            raise ValueError(f"duration={seconds!r} of {self.name} is not supported; expected more than 0 s.")

    @property
    def name(self) -> str:
        """Name of the clip in messages."""
        if self.label is not None:
            return self.label
        return repr(self.source) if isinstance(self.source, str | os.PathLike) else "audio"

    @property
    def is_whole(self) -> bool:
        """True for a whole recording, false for a part of a file."""
        return self.start_seconds == 0 and self.seconds is None

    @property
    def is_remote(self) -> bool:
        """True for a recording that must be downloaded."""
        return is_url(self.source)


def measure_clip(clip: AudioClip, sampling_rate: int = 16000) -> float | None:
    """
    Measure the seconds of a clip by the header of its file or the number of its samples, without decoding it.

    Args:
        clip: The clip.
        sampling_rate: Rate of samples that come without a rate, in Hz.

    Returns:
        Its length, or None where it cannot be told.
    """
    if clip.seconds is not None:
        return clip.seconds
    if clip.is_remote:
        return None
    with suppress(Exception):  # the same error comes again, with a message, when the clip is read
        seconds = _measure_source(clip, sampling_rate)
        return seconds if seconds is not None and 0 <= seconds <= MAX_PLAUSIBLE_SECONDS else None
    return None


def _measure_source(clip: AudioClip, sampling_rate: int) -> float | None:
    file = find_file(clip.source)
    if isinstance(file, str | os.PathLike):
        header = read_header(os.fspath(file))
        if header is None or header.seconds is None:
            return None
        return max(header.seconds - clip.start_seconds, 0.0)
    if isinstance(file, bytes):
        return AudioFile(file).measure().seconds
    return _measure_samples(clip.source, sampling_rate) if file is None else None


def _measure_samples(audio: Any, sampling_rate: int) -> float | None:
    if isinstance(audio, Mapping):
        samples = audio["raw"] if audio.get("raw") is not None else audio["array"]
        return max(np.shape(samples)) / check_sampling_rate(audio["sampling_rate"], "audio")
    if is_rate_and_samples(audio):
        return max(np.shape(audio[1])) / check_sampling_rate(audio[0], "audio")
    if hasattr(audio, "get_all_samples"):
        return audio.metadata.duration_seconds_from_header
    return max(np.shape(audio)) / sampling_rate


class Prepared(NamedTuple):
    """
    A clip that is ready for a model.

    Args:
        seconds: Its length.
        features: Features of a short clip, or of its parts with speech; None for a long clip.
        speech: Speech found in a short clip, where that was asked for.
        source: Audio of a long clip, to be read while it is transcribed.
        close: Closes what was opened for the clip.
    """

    seconds: float
    features: list[ClipFeatures] | None
    speech: ClipSpeech | None = None
    source: AudioSource | None = None
    close: Callable[[], None] = lambda: None


def prepare_clip(
    clip: AudioClip,
    front_end: FrontEnd,
    folder: Path,
    voice_activity: VoiceActivityOptions | None,
) -> Prepared:
    """
    Read a short clip; of a long one nothing is kept in memory.

    Args:
        clip: The clip.
        front_end: What computes features for the model that transcribes it.
        folder: Folder for temporary files.
        voice_activity: Options for finding speech; None: everything is transcribed.

    Raises:
        ValueError: for what is not audio; messages name the clip.
        OSError: when the file cannot be read.
        RuntimeError: when computing its features fails.
        MemoryError: when it does not fit into memory.
    """
    try:
        return _prepare(clip, front_end, folder, voice_activity)
    except CLIP_ERRORS as error:
        raise name_clip(error, clip) from error
    except Exception as error:  # whatever else a decoder throws, but for a package that is missing
        with reading(clip.name, "audio"):
            raise error


def _prepare(
    clip: AudioClip,
    front_end: FrontEnd,
    folder: Path,
    voice_activity: VoiceActivityOptions | None,
) -> Prepared:
    if isinstance(clip.source, Prepared):
        return clip.source
    sampling_rate = front_end.sampling_rate
    file = find_file(clip.source)
    if not clip.is_whole and not isinstance(file, str | os.PathLike):
        raise ValueError(f"offset and duration of {clip.name} are not supported; expected those of a file by name.")
    if file is None:
        samples = SampleSource(clip.source, sampling_rate, clip.name)
        return _prepare_source(samples, clip.channel, front_end, voice_activity)
    if clip.is_whole:
        audio = AudioFile(file)
        length = None if clip.is_remote else measure_clip(clip)
        return _prepare_source(audio, clip.channel, front_end, voice_activity, audio.close, length)
    waveform = read_part(os.fspath(file), sampling_rate, clip.channel, clip.start_seconds, clip.seconds)
    if waveform.shape[0] <= PACKED_SECONDS * sampling_rate:
        part: Any = SampleSource(waveform, sampling_rate, clip.name)
        return _prepare_source(part, "mix", front_end, voice_activity)
    # On the disk: several such parts may wait for the model.
    path = _write_audio([waveform], sampling_rate, folder, clip.name)
    return Prepared(waveform.shape[0] / sampling_rate, None, source=AudioFile(path), close=lambda: os.unlink(path))


def _prepare_source(
    audio: AudioSource,
    channel: int | str,
    front_end: FrontEnd,
    voice_activity: VoiceActivityOptions | None,
    close: Callable[[], None] = lambda: None,
    seconds: float | None = None,
) -> Prepared:
    sampling_rate = front_end.sampling_rate
    is_long = False
    try:
        if seconds is not None and seconds > PACKED_SECONDS:
            is_long = True
            return Prepared(seconds, None, source=audio, close=close)
        held: list[np.ndarray] = []
        num_samples = 0
        for block in audio.blocks(sampling_rate, channel):
            held.append(block)
            num_samples += block.shape[0]
            if num_samples > PACKED_SECONDS * sampling_rate:
                is_long = True
                return Prepared(num_samples / sampling_rate, None, source=audio, close=close)
        waveform = np.concatenate(held)
        seconds = num_samples / sampling_rate
        if voice_activity is None:
            return Prepared(seconds, [front_end.extract(waveform)])
        samples: Any = {"raw": waveform, "sampling_rate": sampling_rate}
        speech = find_speech(front_end.processor, [load_waveform(samples, DETECTOR_SAMPLING_RATE)], voice_activity)
        return Prepared(seconds, list(extract_parts(front_end, [waveform], speech.parts)), speech)
    finally:
        if not is_long:
            close()


def _write_audio(blocks: Iterable[np.ndarray], sampling_rate: int, folder: Path, name: str) -> str:
    """A temporary file with these samples, in a format whose files may be of any size."""
    soundfile = import_soundfile(name)
    path = ""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".w64", delete=False) as file:
            path = file.name
        with soundfile.SoundFile(path, "w", sampling_rate, 1, subtype="FLOAT") as audio:
            for block in blocks:
                audio.write(block)
    except BaseException as error:
        if path:
            Path(path).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise named(error, f"{name} cannot be copied to a temporary file") from error
        if isinstance(error, soundfile.LibsndfileError):  # it gives no reason: "System error."
            raise OSError(f"{name} cannot be copied to a temporary file in {str(folder)!r}: {error}") from error
        raise
    return path


def name_clip(error: Exception, clip: AudioClip) -> Exception:
    """
    The error with the user's name of the clip: in place of the path that was read, or before a message without one.

    What the memory and the system say ("std::bad_alloc", "Input/output error") names nothing.
    """
    text = str(error)
    read = repr(clip.source) if isinstance(clip.source, str) else clip.name
    if read != clip.name and read in text:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        return kind(text.replace(read, clip.name))
    if any(name in text for name in (clip.name, read, str(clip.source) if clip.is_remote else clip.name)):
        return error
    if isinstance(error, MemoryError) or "bad_alloc" in text:
        return MemoryError(f"{clip.name}: the memory does not suffice. {text}".rstrip())
    general: type[Exception] = next((kind for kind in (OSError, RuntimeError) if isinstance(error, kind)), ValueError)
    return general(f"{clip.name}: {text}")


class Readers:
    """Threads that run what is submitted, in order; a process that wants to end does not wait for them."""

    def __init__(self, num_workers: int) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"fastconformer-audio-{number}", daemon=True)
            for number in range(num_workers)
        ]
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError as error:
                self._threads = self._threads[:number]
                self.close()
                raise ValueError(
                    f"num_workers={num_workers} is not supported; the system starts no more than {number} threads."
                ) from error

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.put((future, function))
        if not self._threads:
            self._waiting.put(None)
            self._work()
        return future

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            future, function = item
            if self._is_closed:
                future.cancel()
                continue
            try:
                future.set_result(function())
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                future.set_exception(error)

    def close(self) -> None:
        """Drop all that has not begun, and wait a few seconds for what has."""
        self._is_closed = True
        for _ in self._threads:
            self._waiting.put(None)
        # A thread that is in the middle of a computation when the interpreter ends can crash it.
        end = time.monotonic() + MAX_CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))


Pack = list[tuple[int, "AudioClip", "Future[Prepared]"]]


def prepare_packs(
    packs: Iterable[list[tuple[int, AudioClip]]], submit: Callable[[AudioClip], Future[Prepared]], max_ahead: int
) -> Iterator[Pack]:
    """
    Give each pack with the results of its preparation; the clips of the packs that follow are read meanwhile.

    Args:
        packs: Clips that go through a model together, each with its place.
        submit: Starts the preparation of a clip.
        max_ahead: Clips that are read ahead, at most, apart from those of the pack that comes next.
    """
    ahead: deque[Pack] = deque()
    remaining = iter(packs)
    num_ahead = 0
    is_more = True
    while is_more or ahead:
        while is_more and (not ahead or num_ahead < max_ahead):
            pack = next(remaining, None)
            if pack is None:
                is_more = False
                break
            ahead.append([(place, clip, submit(clip)) for place, clip in pack])
            num_ahead += len(pack)
        if ahead:
            first = ahead.popleft()
            num_ahead -= len(first)
            yield first
