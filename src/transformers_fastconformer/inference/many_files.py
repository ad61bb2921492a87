"""
Many clips to transcripts: read ahead and packed by length, one worker a device; a broken one stops nothing.

Short clips are sorted and go through the model in batches, whose features threads prepare while the model works. Long
ones go one by one through `transcribe_file`, which reads them as a stream.
"""

from __future__ import annotations

import math
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from ..audio.files import URL_SCHEMES, AudioFile, import_soundfile, load_waveform
from ..audio.parts import read_header, read_part
from ..audio.voice_activity import DETECTOR_SAMPLING_RATE, VoiceActivityOptions, check_voice_activity
from ..decoding.confidence import ConfidenceOptions
from ..processing_fastconformer import FastConformerProcessor
from .chunked import check_decoding_options, transcribe_features
from .clip_features import ClipFeatures, extract_clip
from .file import Transcript, split_batches, to_transcript, to_transcripts, transcribe_file
from .speech_parts import ClipSpeech, decode_parts, extract_parts, find_speech, join_parts
from .strategy import (
    MOST_MEMORY_SHARE,
    available_bytes,
    check_strategy,
    choose_strategy,
    estimate_one_pass_bytes,
)

# Longer clips are not packed: alone they keep the model busy, and `transcribe_file` decides how they fit into memory.
PACKED_SECONDS = 60.0
# How many clips reading may be ahead of each model, times the batch.
BATCHES_AHEAD = 2
# Reading a clip takes no longer, unless a server does not answer.
MOST_CLOSING_SECONDS = 5.0
# What is wrong with one clip alone: its file, or that it does not fit into memory.
CLIP_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class AudioClip:
    """
    A file or a part of it.

    Args:
        source: A path or an `http(s)` address.
        channel: `"mix"` for the mean of the channels, or the number of one.
        start_seconds: Where the part begins.
        seconds: How long it is; None: to the end of the file.
        label: What to call the file in messages; None: its source.
    """

    source: str
    channel: int | str = "mix"
    start_seconds: float = 0.0
    seconds: float | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < math.inf:
            raise ValueError(f"offset={self.start_seconds} of {self.source!r} is not supported; expected seconds.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"duration={self.seconds} of {self.source!r} is not supported; expected more than 0 s.")

    @property
    def is_whole_file(self) -> bool:
        """Whether it is no part of a file."""
        return self.start_seconds == 0 and self.seconds is None

    @property
    def is_remote(self) -> bool:
        """Whether it must be downloaded."""
        return self.source.startswith(URL_SCHEMES)


@dataclass(frozen=True)
class TranscriptionOptions:
    """
    How clips are transcribed and how many at a time.

    Args:
        strategy, timestamps, language, chunk_length_s, stride_length_s, max_symbols_per_step, confidence,
            voice_activity: As in `transcribe_file`.
        batch_size: Most clips, or chunks of a long one, that the encoder sees at a time.
        batch_seconds: Most seconds of clips in a batch, with what pads them to the longest.
        num_workers: Threads that read audio and compute features ahead of the models; 0: nothing is done ahead.
    """

    strategy: str = "auto"
    timestamps: bool | Sequence[str] = True
    language: str | None = None
    chunk_length_s: float | None = None
    stride_length_s: float | None = None
    max_symbols_per_step: int | None = None
    confidence: ConfidenceOptions | None = None
    voice_activity: VoiceActivityOptions | None = None
    batch_size: int = 8
    batch_seconds: float = 240.0
    num_workers: int = 1

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} is not supported; expected {least} or more.")
        if not 0 < self.batch_seconds < math.inf:
            raise ValueError(f"batch_seconds={self.batch_seconds} is not supported; expected more than 0.")


class Finished(NamedTuple):
    """
    What became of a clip.

    Args:
        place: Which of the clips it is.
        transcript: What was said, or
        error: why that is not known.
    """

    place: int
    transcript: Transcript | None
    error: Exception | None


Worker = tuple[PreTrainedModel, FastConformerProcessor]


def transcribe_clips(
    workers: Sequence[Worker],
    clips: Sequence[AudioClip],
    options: TranscriptionOptions,
    lengths_seconds: Sequence[float | None] | None = None,
    sort_ahead: int | None = None,
    on_progress: Callable[[int, float], None] | None = None,
) -> Generator[Finished, None, None]:
    """
    Transcribe clips, the longest first, and give each when it is done.

    Args:
        workers: Model and processor of each device. With one the model runs in the thread that asks for results.
        clips: What to transcribe.
        options: How.
        lengths_seconds: Of each clip, as `measure_clip` finds it; None: asks it. None of a clip: not known.
        sort_ahead: Sort only so many clips at a time, so that results are nearly in order; None: all.
        on_progress: Called with the place of a clip and the seconds of it that are done, by any thread.

    Raises:
        ValueError: at once, for options that the model does not have.
        ImportError: the extra `audio`, or for `voice_activity` the extra `vad`, is not installed.
    """
    if not workers:
        raise ValueError("workers=[] is not supported; expected a model and its processor for each device.")
    for model, processor in workers:
        check_decoding_options(model, options.language, options.max_symbols_per_step)
        config: Any = model.config
        check_strategy(
            config, processor.frame_seconds, options.strategy, options.chunk_length_s, options.stride_length_s
        )
    check_voice_activity(options.voice_activity)
    if lengths_seconds is None:
        lengths_seconds = [measure_clip(clip) for clip in clips]
    packs: list[list[int]] = []
    for first in range(0, len(clips), sort_ahead or max(len(clips), 1)):
        indices = range(first, min(first + (sort_ahead or len(clips)), len(clips)))
        packs += pack_clips(indices, lengths_seconds, options.batch_size, options.batch_seconds)
    return _transcribe_packs(workers, clips, options, packs, on_progress or _ignore)


def _ignore(index: int, seconds: float) -> None:
    """Nobody wants to know."""


def measure_clip(clip: AudioClip) -> float | None:
    """Seconds of a clip by the header of its file; None where that cannot be told."""
    if clip.seconds is not None:
        return clip.seconds
    header = read_header(clip.source)
    return None if header is None else max(header.seconds - clip.start_seconds, 0.0)


def pack_clips(
    indices: Sequence[int], lengths_seconds: Sequence[float | None], batch_size: int, batch_seconds: float
) -> list[list[int]]:
    """
    Batches of clips of about the same length, the longest first.

    Args:
        indices: The clips to pack.
        lengths_seconds: Of all clips; None is not known.
        batch_size: Most clips of a batch.
        batch_seconds: Most seconds of a batch, each clip as long as its longest. A clip longer than that is alone, as
            are those longer than `PACKED_SECONDS` and of unknown length.
    """
    packs: list[list[int]] = []
    longest = math.inf
    for index in sorted(indices, key=lambda index: -_known(lengths_seconds[index])):
        seconds = _known(lengths_seconds[index])
        is_full = not packs or len(packs[-1]) == batch_size or (len(packs[-1]) + 1) * longest > batch_seconds
        if is_full or longest > PACKED_SECONDS:
            packs.append([])
            longest = seconds
        packs[-1].append(index)
    return packs


def _known(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


# Reading


class _Prepared(NamedTuple):
    """
    A clip that is ready for a model.

    Args:
        seconds: Its length.
        features: Those of a short one, or of its parts in which something is said; None for a long one.
        speech: What is said in a short one, where that was asked for.
        path: File of a long one.
        is_temporary: Whether the file is gone when the clip is done.
    """

    seconds: float
    features: list[ClipFeatures] | None
    speech: ClipSpeech | None = None
    path: str = ""
    is_temporary: bool = False


def _prepare(
    clip: AudioClip, processor: FastConformerProcessor, folder: Path, voice_activity: VoiceActivityOptions | None
) -> _Prepared:
    """
    Read a clip, or see that it is long: then nothing of it is kept in memory.

    Args:
        clip: The clip.
        processor: Of the model that it is for.
        folder: Where to put temporary files.
        voice_activity: What counts as speech; None: everything.
    """
    sampling_rate = processor.feature_extractor.sampling_rate
    try:
        if clip.is_whole_file and not clip.is_remote:
            header = read_header(clip.source)
            if header is not None and header.seconds > PACKED_SECONDS:
                return _Prepared(header.seconds, None, path=clip.source)
        blocks = _read_blocks(clip, sampling_rate)
        held: list[np.ndarray] = []
        num_samples = 0
        for block in blocks:
            held.append(block)
            num_samples += block.shape[0]
            if num_samples > PACKED_SECONDS * sampling_rate:
                break
        if num_samples <= PACKED_SECONDS * sampling_rate:
            waveform = np.concatenate(held)
            seconds = num_samples / sampling_rate
            if voice_activity is None:
                return _Prepared(seconds, [extract_clip(processor.feature_extractor, waveform)])
            samples: Any = {"raw": waveform, "sampling_rate": sampling_rate}
            speech = find_speech(processor, [load_waveform(samples, DETECTOR_SAMPLING_RATE)], voice_activity)
            return _Prepared(seconds, list(extract_parts(processor, [waveform], speech.parts)), speech)
        path, num_samples = _write_audio(chain(held, blocks), sampling_rate, folder)
    except CLIP_ERRORS as error:
        raise _rename(error, clip.source, clip) from error
    return _Prepared(num_samples / sampling_rate, None, path=path, is_temporary=True)


def _read_blocks(clip: AudioClip, sampling_rate: int) -> Iterator[np.ndarray]:
    """Samples of a clip from its start, (samples,) each."""
    if not clip.is_whole_file:
        yield read_part(clip.source, sampling_rate, clip.channel, clip.start_seconds, clip.seconds)
        return
    with AudioFile(clip.source) as file:
        yield from file.blocks(sampling_rate, clip.channel)


def _write_audio(blocks: Iterable[np.ndarray], sampling_rate: int, folder: Path) -> tuple[str, int]:
    """A temporary file with these samples, and how many they are; in a format whose files may be of any size."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".w64", delete=False) as file:
        path = file.name
    num_samples = 0
    try:
        with import_soundfile(repr(path)).SoundFile(path, "w", sampling_rate, 1, subtype="FLOAT") as audio:
            for block in blocks:
                audio.write(block)
                num_samples += block.shape[0]
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return path, num_samples


def _rename(error: Exception, path: str, clip: AudioClip) -> Exception:
    """The error with what a user calls the file in place of the path that was read."""
    name = clip.label if clip.label is not None else repr(clip.source)
    return (
        ValueError(str(error).replace(repr(path), name)) if repr(path) != name and repr(path) in str(error) else error
    )


class _Readers:
    """Threads that do what is submitted, in order; they do not keep a process alive that wants to end."""

    def __init__(self, num_workers: int) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"fastconformer-audio-{number}", daemon=True)
            for number in range(num_workers)
        ]
        for thread in self._threads:
            thread.start()

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
        """Do nothing more of what waits. What is being done is waited for, but not for long."""
        self._is_closed = True
        for _ in self._threads:
            self._waiting.put(None)
        # A thread that is in the middle of a computation when the interpreter ends can take it down.
        end = time.monotonic() + MOST_CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))


_Pack = list[tuple[int, "Future[_Prepared]"]]


def _prepare_packs(
    packs: Sequence[list[int]], submit: Callable[[int], Future[_Prepared]], most_ahead: int
) -> Iterator[_Pack]:
    """Each pack with what becomes of its clips; the clips of following packs are submitted meanwhile."""
    ahead: deque[_Pack] = deque()
    remaining = iter(packs)
    num_ahead = 0
    is_more = True
    while is_more or ahead:
        while is_more and (not ahead or num_ahead < most_ahead):
            pack = next(remaining, None)
            if pack is None:
                is_more = False
                break
            ahead.append([(index, submit(index)) for index in pack])
            num_ahead += len(pack)
        if ahead:
            first = ahead.popleft()
            num_ahead -= len(first)
            yield first


# Models


class _StoppedError(Exception):
    """Nobody waits for what a worker does."""


def _transcribe_packs(
    workers: Sequence[Worker],
    clips: Sequence[AudioClip],
    options: TranscriptionOptions,
    packs: Sequence[list[int]],
    on_progress: Callable[[int, float], None],
) -> Generator[Finished, None, None]:
    processor = workers[0][1]
    most_ahead = BATCHES_AHEAD * options.batch_size * len(workers) if options.num_workers else 0
    readers = _Readers(options.num_workers)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, closing(readers):

        def submit(index: int) -> Future[_Prepared]:
            return readers.submit(lambda: _prepare(clips[index], processor, Path(folder), options.voice_activity))

        prepared = _prepare_packs(packs, submit, most_ahead)
        if len(workers) == 1:
            for pack in prepared:
                yield from _transcribe_pack(*workers[0], clips, options, pack, on_progress)
        else:
            yield from _transcribe_in_threads(workers, clips, options, prepared, on_progress)


def _transcribe_in_threads(
    workers: Sequence[Worker],
    clips: Sequence[AudioClip],
    options: TranscriptionOptions,
    prepared: Iterator[_Pack],
    on_progress: Callable[[int, float], None],
) -> Generator[Finished, None, None]:
    """A thread for each worker; each takes the next pack when it is done with one."""
    results: queue.SimpleQueue[Finished | BaseException | None] = queue.SimpleQueue()
    lock, is_stopped = threading.Lock(), threading.Event()

    def report(index: int, seconds: float) -> None:
        if is_stopped.is_set():
            raise _StoppedError
        on_progress(index, seconds)

    def work(model: PreTrainedModel, processor: FastConformerProcessor) -> None:
        try:
            while not is_stopped.is_set():
                with lock:
                    pack = next(prepared, None)
                if pack is None:
                    break
                for finished in _transcribe_pack(model, processor, clips, options, pack, report):
                    results.put(finished)
        except _StoppedError:
            pass
        except BaseException as error:
            results.put(error)
        finally:
            results.put(None)

    threads = [
        threading.Thread(target=work, args=worker, name=f"fastconformer-model-{number}", daemon=True)
        for number, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        num_working = len(threads)
        while num_working:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                num_working -= 1
            else:
                yield result
    finally:
        is_stopped.set()
        for thread in threads:
            thread.join()


def _transcribe_pack(
    model: PreTrainedModel,
    processor: FastConformerProcessor,
    clips: Sequence[AudioClip],
    options: TranscriptionOptions,
    pack: _Pack,
    on_progress: Callable[[int, float], None],
) -> Iterator[Finished]:
    short: list[tuple[int, _Prepared]] = []
    for index, future in pack:
        try:
            prepared = future.result()
        except CLIP_ERRORS as error:
            yield Finished(index, None, error)
            continue
        if prepared.features is not None:
            short.append((index, prepared))
            continue
        try:
            transcript = _transcribe_long(model, processor, clips[index], options, prepared, index, on_progress)
            yield Finished(index, transcript, None)
        except CLIP_ERRORS as error:
            yield Finished(index, None, error)
    if not short:
        return
    for part in _split_for_memory(model, short):
        for index, result in _transcribe_short(model, processor, clips, options, part):
            if isinstance(result, Transcript):
                on_progress(index, result.duration_seconds)
                yield Finished(index, result, None)
            else:
                yield Finished(index, None, result)


def _transcribe_long(
    model: PreTrainedModel,
    processor: FastConformerProcessor,
    clip: AudioClip,
    options: TranscriptionOptions,
    prepared: _Prepared,
    index: int,
    on_progress: Callable[[int, float], None],
) -> Transcript:
    try:
        transcript = transcribe_file(
            model,
            processor,
            prepared.path,
            strategy=options.strategy,
            timestamps=options.timestamps,
            language=options.language,
            chunk_length_s=options.chunk_length_s,
            stride_length_s=options.stride_length_s,
            max_symbols_per_step=options.max_symbols_per_step,
            confidence=options.confidence,
            voice_activity=options.voice_activity,
            batch_size=options.batch_size,
            # Of a part the channel is chosen already.
            channel=clip.channel if clip.is_whole_file else "mix",
            on_progress=lambda seconds: on_progress(index, seconds),
        )
    except CLIP_ERRORS as error:
        raise _rename(error, prepared.path, clip) from error
    finally:
        if prepared.is_temporary:
            with suppress(OSError):
                Path(prepared.path).unlink()
    transcript.channel = clip.channel
    return transcript


def _transcribe_short(
    model: PreTrainedModel,
    processor: FastConformerProcessor,
    clips: Sequence[AudioClip],
    options: TranscriptionOptions,
    short: Sequence[tuple[int, _Prepared]],
) -> Iterator[tuple[int, Transcript | Exception]]:
    """The clips of a batch together, or one by one where that fails: one that does not fit costs no other."""
    try:
        transcripts: list[Transcript | Exception] = [*_decode_batch(model, processor, options, short)]
    except CLIP_ERRORS as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(short) == 1:
            yield short[0][0], error
            return
        for item in short:
            yield from _transcribe_short(model, processor, clips, options, [item])
        return
    for (index, _), transcript in zip(short, transcripts, strict=True):
        if isinstance(transcript, Transcript):
            transcript.channel = clips[index].channel
        yield index, transcript


def _split_for_memory(
    model: PreTrainedModel, short: Sequence[tuple[int, _Prepared]]
) -> Iterator[Sequence[tuple[int, _Prepared]]]:
    """A batch in as many parts as the free memory asks for. What is done with a clip does not depend on it."""
    return split_batches(short, _count_fitting(model, short))


def _count_fitting(model: PreTrainedModel, short: Sequence[tuple[int, _Prepared]]) -> int:
    """How many clips as long as the longest of a batch fit into the free memory, one at least."""
    config: Any = model.config
    mel_length = max((features.mel_length for features in _features_of(short)), default=0)
    clip_bytes = estimate_one_pass_bytes(config, mel_length, model.dtype.itemsize, device_type=model.device.type)
    return max(int(MOST_MEMORY_SHARE * available_bytes(model.device)) // max(clip_bytes, 1), 1)


def _features_of(short: Sequence[tuple[int, _Prepared]]) -> list[ClipFeatures]:
    return [features for _, prepared in short for features in prepared.features or []]


def _decode_batch(
    model: PreTrainedModel,
    processor: FastConformerProcessor,
    options: TranscriptionOptions,
    short: Sequence[tuple[int, _Prepared]],
) -> list[Transcript]:
    features = _features_of(short)
    chosen = choose_strategy(
        model,
        max((clip.mel_length for clip in features), default=0),
        processor.frame_seconds,
        options.strategy,
        options.chunk_length_s,
        options.stride_length_s,
    )
    # Of parts of clips there may be more than clips.
    batch_size = options.batch_size if options.voice_activity is None else _count_fitting(model, short)
    output = transcribe_features(
        chosen.model,
        features,
        chosen.plan,
        batch_size=min(batch_size, options.batch_size),
        language=options.language,
        max_symbols_per_step=options.max_symbols_per_step,
        confidence=options.confidence,
    )
    if options.voice_activity is None:
        seconds = [prepared.seconds for _, prepared in short]
        return to_transcripts(processor, output, seconds, options.timestamps, options.confidence, chosen.name)
    transcripts = []
    parts = iter(decode_parts(processor, output, options.timestamps, options.confidence))
    for _, prepared in short:
        assert prepared.speech is not None
        own = [next(parts) for _ in prepared.speech.parts]
        joined = join_parts(processor, own, prepared.speech, options.timestamps, options.confidence)
        transcripts.append(
            to_transcript(joined, prepared.seconds, options.timestamps, chosen.name, speech=prepared.speech.segments)
        )
    return transcripts
