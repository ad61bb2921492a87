"""
Transcription of many clips, which are read ahead and packed by length; each device has a worker.

A clip that cannot be transcribed does not stop the others. Short clips are sorted and go through the model in batches;
threads prepare their features while the model works. Long clips go one by one through `transcribe_source`, which reads
them as a stream.
"""

from __future__ import annotations

import math
import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from contextlib import closing, suppress
from itertools import islice
from typing import Any, NamedTuple

import torch

from ..audio.files import find_file
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..temporary_files import TemporaryFolder
from ..validation import require, require_count
from .clip_features import ClipFeatures
from .estimates import estimate_one_pass_bytes
from .file import check_options, transcribe_source
from .free_memory import available_bytes
from .multitask_plan import choose_front_end
from .options import TranscriptionOptions
from .reading import (
    CLIP_ERRORS,
    PACKED_SECONDS,
    AudioClip,
    Pack,
    Prepared,
    Readers,
    measure_clip,
    name_clip,
    prepare_clip,
    prepare_packs,
)
from .recognition import recognize
from .speech_parts import join_parts, part_levels
from .strategy import MAX_MEMORY_SHARE, choose_strategy
from .transcript import Transcript, to_transcripts

# Batches by which reading may be ahead of each model.
BATCHES_AHEAD = 2

# Called with the place of a clip and the seconds of it that are done, by any thread.
Progress = Callable[[int, float], None]


class Worker(NamedTuple):
    """A model on a device and its processor, as `load_model` returns them."""

    model: FastConformerRecognizer
    processor: FastConformerProcessor


class Finished(NamedTuple):
    """
    Result of one clip.

    Args:
        place: Number of the clip among those given, from 0.
        transcript: Its transcript; None after an error.
        error: The error that kept it from being transcribed, else None.
    """

    place: int
    transcript: Transcript | None
    error: Exception | None


def transcribe_clips(
    workers: Sequence[tuple[FastConformerRecognizer, FastConformerProcessor]],
    clips: Iterable[AudioClip],
    options: TranscriptionOptions | None = None,
    lengths_seconds: Sequence[float | None] | None = None,
    sort_ahead: int | None = None,
    on_progress: Progress | None = None,
) -> Generator[Finished, None, None]:
    """
    Transcribe clips, the longest first, and give each when it is done.

    Args:
        workers: Model and processor of each device, as [`load_model`] returns them. With one worker the model runs in
            the thread that asks for results.
        clips: Clips to transcribe. With `sort_ahead` they are taken from an iterator as they are needed.
        options: How to transcribe; None: the defaults of [`TranscriptionOptions`].
        lengths_seconds: Length of each clip in seconds, None for one that is not known. None for all: lengths are read
            from the headers of files.
        sort_ahead: Clips that are sorted by length at a time, so that results are nearly in order; None: all.
        on_progress: Called with the place of a clip and the seconds of it that are done, by any thread.

    Returns:
        An iterator of [`Finished`]. A clip that cannot be transcribed gives one with its error and stops no other.

    Raises:
        ValueError: at once, for no workers and for options that a model does not have.
        ImportError: when the extra `audio`, or for `voice_activity` the extra `vad`, is not installed.
    """
    if not workers:
        raise ValueError("workers=[] is not supported; expected a model and its processor for each device.")
    options = TranscriptionOptions.of(options, {})
    if sort_ahead is not None:
        require_count("sort_ahead", sort_ahead)
    if lengths_seconds is not None and isinstance(clips, Sized) and len(lengths_seconds) != len(clips):
        raise ValueError(
            f"lengths_seconds has {len(lengths_seconds)} values; expected {len(clips)}, one for each clip."
        )
    for model, processor in workers:
        check_options(model, processor, options)
    sampling_rate = workers[0][1].feature_extractor.sampling_rate
    packs = _plan_packs(clips, lengths_seconds, options, sort_ahead, sampling_rate)
    team = [Worker(*worker) for worker in workers]
    return _raising_errors_of_callers(_transcribe_packs(team, packs, options, _guard(on_progress or _ignore)))


def _ignore(place: int, seconds: float) -> None:
    """Do nothing: the caller did not ask for progress."""


def _plan_packs(
    clips: Iterable[AudioClip],
    lengths_seconds: Sequence[float | None] | None,
    options: TranscriptionOptions,
    sort_ahead: int | None,
    sampling_rate: int,
) -> Iterator[list[tuple[int, AudioClip]]]:
    numbered = enumerate(clips)
    files = _OpenFiles()
    while group := list(islice(numbered, sort_ahead)):
        for place, clip in group:
            require(isinstance(clip, AudioClip), f"clips[{place}]", clip, "an AudioClip")
            files.add(place, find_file(clip.source))
        if lengths_seconds is None:
            lengths = [measure_clip(clip, sampling_rate) for _, clip in group]
        else:
            lengths = [lengths_seconds[place] for place, _ in group]
        for pack in pack_clips(lengths, options.batch_size, options.batch_seconds):
            yield [group[index] for index in pack]


class _OpenFiles:
    """Open files that were given, none of which can be read by two clips: both would move it."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[Any, int]] = {}

    def add(self, place: int, file: Any) -> None:
        """
        Note the file of a clip.

        Raises:
            ValueError: for an open file that another clip has too.
        """
        if not hasattr(file, "read"):
            return
        known, other = self._places.get(id(file), (None, place))
        if known is not None and known() is file:
            raise ValueError(
                f"clip {place} is the same open file as clip {other}; expected each once, its bytes, or its path."
            )
        with suppress(TypeError):  # a file of a kind that cannot be referred to weakly
            self._places[id(file)] = (weakref.ref(file), place)


def pack_clips(lengths_seconds: Sequence[float | None], batch_size: int, batch_seconds: float) -> list[list[int]]:
    """
    Batches of clips of about the same length, the longest first.

    Args:
        lengths_seconds: Length of each clip; None is not known.
        batch_size: Clips of a batch, at most.
        batch_seconds: Seconds of a batch with each clip padded to the longest, at most. A longer clip is a batch of
            its own, and so are clips longer than `PACKED_SECONDS` and clips of unknown length.

    Returns:
        Numbers of the clips of each batch.
    """
    known = [math.inf if seconds is None else seconds for seconds in lengths_seconds]
    packs: list[list[int]] = []
    longest = math.inf
    for index in sorted(range(len(known)), key=lambda index: -known[index]):
        is_full = not packs or len(packs[-1]) == batch_size or (len(packs[-1]) + 1) * longest > batch_seconds
        if is_full or longest > PACKED_SECONDS:
            packs.append([])
            longest = known[index]
        packs[-1].append(index)
    return packs


class _CallerError(BaseException):
    """An error of a function that the caller gave: not of a clip, whatever its type."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _guard(on_progress: Progress) -> Progress:
    """The same function, whose errors are not taken for those of a clip."""

    def report(place: int, seconds: float) -> None:
        try:
            on_progress(place, seconds)
        except Exception as error:
            raise _CallerError(error) from error

    return report


def _raising_errors_of_callers(results: Generator[Finished, None, None]) -> Generator[Finished, None, None]:
    with closing(results):
        try:
            yield from results
        except _CallerError as error:
            raise error.error from None


class _StoppedError(Exception):
    """Stops a worker whose results nobody waits for any more."""


def _transcribe_packs(
    workers: Sequence[Worker],
    packs: Iterable[list[tuple[int, AudioClip]]],
    options: TranscriptionOptions,
    on_progress: Progress,
) -> Generator[Finished, None, None]:
    model, processor = workers[0]
    front_end = choose_front_end(model, processor, options)
    max_ahead = BATCHES_AHEAD * options.batch_size * len(workers) if options.num_workers else 0
    readers = Readers(options.num_workers)
    with TemporaryFolder() as folder, closing(readers):

        def submit(clip: AudioClip) -> Future[Prepared]:
            return readers.submit(lambda: prepare_clip(clip, front_end, folder, options.voice_activity))

        prepared = prepare_packs(packs, submit, max_ahead)
        if len(workers) == 1:
            for pack in prepared:
                yield from _transcribe_pack(workers[0], options, pack, on_progress)
        else:
            yield from _transcribe_in_threads(workers, options, prepared, on_progress)


def _transcribe_in_threads(
    workers: Sequence[Worker],
    options: TranscriptionOptions,
    prepared: Iterator[Pack],
    on_progress: Progress,
) -> Generator[Finished, None, None]:
    """Transcribe with a thread for each worker, which takes the next pack when it is done with one."""
    team = _Team(options, prepared, on_progress)
    threads = [
        threading.Thread(target=team.work, args=(worker,), name=f"fastconformer-model-{number}", daemon=True)
        for number, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        num_working = len(threads)
        while num_working:
            result = team.results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                num_working -= 1
            else:
                yield result
    finally:
        team.is_stopped.set()
        for thread in threads:
            thread.join()


class _Team:
    """
    Workers that share packs and the queue of their results, in which None is the end of one of them.

    Args:
        options: How to transcribe.
        prepared: The packs to transcribe.
        on_progress: See `transcribe_clips`.
    """

    def __init__(self, options: TranscriptionOptions, prepared: Iterator[Pack], on_progress: Progress) -> None:
        self.options = options
        self.prepared = prepared
        self.on_progress = on_progress
        self.results: queue.SimpleQueue[Finished | BaseException | None] = queue.SimpleQueue()
        self.is_stopped = threading.Event()
        self._lock = threading.Lock()

    def next_pack(self) -> Pack | None:
        with self._lock:
            return None if self.is_stopped.is_set() else next(self.prepared, None)

    def report(self, place: int, seconds: float) -> None:
        if self.is_stopped.is_set():
            raise _StoppedError
        self.on_progress(place, seconds)

    def work(self, worker: Worker) -> None:
        try:
            while (pack := self.next_pack()) is not None:
                for finished in _transcribe_pack(worker, self.options, pack, self.report):
                    self.results.put(finished)
        except _StoppedError:
            pass
        except BaseException as error:
            self.results.put(error)
        finally:
            self.results.put(None)


def _transcribe_pack(
    worker: Worker, options: TranscriptionOptions, pack: Pack, on_progress: Progress
) -> Iterator[Finished]:
    short: list[_ShortClip] = []
    for place, clip, future in pack:
        try:
            prepared = future.result()
            if prepared.features is not None:
                short.append(_ShortClip(place, clip, prepared))
                continue
            yield Finished(place, _transcribe_long(worker, options, place, clip, prepared, on_progress), None)
        except CLIP_ERRORS as error:
            yield Finished(place, None, name_clip(error, clip))
    for start, stop in _split_for_memory(worker.model, short):
        for finished in _transcribe_short(worker, options, short[start:stop]):
            if finished.transcript is not None:
                on_progress(finished.place, finished.transcript.duration_seconds)
            yield finished


def _transcribe_long(
    worker: Worker,
    options: TranscriptionOptions,
    place: int,
    clip: AudioClip,
    prepared: Prepared,
    on_progress: Progress,
) -> Transcript:
    assert prepared.source is not None
    # The channel of a part was chosen when it was read.
    channel = clip.channel if clip.is_whole else "mix"
    try:
        transcript = transcribe_source(
            *worker, prepared.source, options, channel, lambda seconds: on_progress(place, seconds)
        )
    except CLIP_ERRORS as error:
        raise name_clip(error, clip) from error
    finally:
        with suppress(OSError):
            prepared.close()
    transcript.channel = clip.channel
    return transcript


# Short clips, several at a time


class _ShortClip(NamedTuple):
    place: int
    clip: AudioClip
    prepared: Prepared


def _transcribe_short(
    worker: Worker, options: TranscriptionOptions, short: Sequence[_ShortClip]
) -> Iterator[Finished]:
    """Transcribe a batch, or its clips one by one where that fails: a clip that does not fit stops no other."""
    try:
        transcripts = _decode_batch(worker, options, short)
    except CLIP_ERRORS as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(short) == 1:
            yield Finished(short[0].place, None, name_clip(error, short[0].clip))
            return
        for item in short:
            yield from _transcribe_short(worker, options, [item])
        return
    for item, transcript in zip(short, transcripts, strict=True):
        transcript.channel = item.clip.channel
        yield Finished(item.place, transcript, None)


def _split_for_memory(model: FastConformerRecognizer, short: Sequence[_ShortClip]) -> Iterator[tuple[int, int]]:
    """Split a batch so that each piece fits into the free memory; the result of a clip does not depend on it."""
    if short:
        size = _count_fitting(model, short)
        for start in range(0, len(short), size):
            yield start, start + size


def _count_fitting(model: FastConformerRecognizer, short: Sequence[_ShortClip]) -> int:
    """Number of clips as long as the longest of a batch that fit into the free memory, at least one."""
    config: Any = model.config
    mel_length = max((features.mel_length for features in _features_of(short)), default=0)
    clip_bytes = estimate_one_pass_bytes(config, mel_length, model.dtype.itemsize, device_type=model.device.type)
    return max(int(MAX_MEMORY_SHARE * available_bytes(model.device)) // max(clip_bytes, 1), 1)


def _features_of(short: Sequence[_ShortClip]) -> list[ClipFeatures]:
    return [features for item in short for features in item.prepared.features or []]


def _decode_batch(worker: Worker, options: TranscriptionOptions, short: Sequence[_ShortClip]) -> list[Transcript]:
    model, processor = worker
    features = _features_of(short)
    mel_length = max((clip.mel_length for clip in features), default=0)
    chosen = choose_strategy(model, mel_length, processor.frame_seconds, options)
    batch_size = chosen.batch_size
    if options.voice_activity is not None:
        # A clip may have several parts, which nobody has packed.
        config: Any = model.config
        longest_seconds = max(config.count_encoder_frames(mel_length), 1) * processor.frame_seconds
        in_seconds = max(int(options.batch_seconds / longest_seconds), 1)
        batch_size = min(batch_size, in_seconds, _count_fitting(model, short))
    levels = part_levels(options) if options.voice_activity is not None else options.timestamps or ["word"]
    transcriptions = recognize(processor, features, chosen, options, levels, batch_size)
    if options.voice_activity is None:
        seconds = [item.prepared.seconds for item in short]
        return to_transcripts(transcriptions, seconds, options, chosen)
    transcripts = []
    parts = iter(transcriptions)
    for item in short:
        speech = item.prepared.speech
        assert speech is not None
        joined = join_parts(processor, [next(parts) for _ in speech.parts], speech, options)
        transcripts.append(Transcript.of(joined, item.prepared.seconds, options, chosen, speech.segments))
    return transcripts
