"""A thread that transcribes files: what waits is gathered, batched by length, and gives way to live streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers.utils import logging

from ..diarization.speaker_finder import SpeakerFinder
from ..inference.many_files import transcribe_clips
from ..inference.multitask_plan import choose_front_end
from ..inference.options import TranscriptionOptions
from ..inference.reading import PACKED_SECONDS, AudioClip, Prepared, prepare_clip
from ..inference.transcript import Transcript
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from .device_turn import DeviceTurn
from .errors import SERVER_ERROR, ApiError

logger = logging.get_logger(__name__)

# Seconds of audio over which the rate of the machine is averaged.
RATE_WINDOW_SECONDS = 600.0


@dataclass(eq=False)
class FileJob:
    """
    A file to transcribe.

    Args:
        model, processor: The model.
        clip: The audio.
        seconds: Its length.
        options: How to transcribe; checked.
        speakers: What tells the speakers apart; None: they are not asked for.
        prepared: Features of a short recording, where they are computed already.
        done_seconds: Seconds that are done.
        future: The transcript. `cancel` drops the job: it is not begun any more, or ends at its next window.
    """

    model: FastConformerRecognizer
    processor: FastConformerProcessor
    clip: AudioClip
    seconds: float
    options: TranscriptionOptions
    speakers: SpeakerFinder | None = None
    prepared: Prepared | None = None
    done_seconds: float = 0.0
    is_dropped: bool = False
    future: Future[Transcript] = field(default_factory=Future)

    def prepare(self) -> None:
        """
        Compute the features of a short recording, by the thread of its request while the device works for others.

        Raises:
            ValueError, RuntimeError, MemoryError: as of `prepare_clip`.
        """
        if self.seconds <= PACKED_SECONDS:
            front_end = choose_front_end(self.model, self.processor, self.options)
            # The folder is for parts of files, and this is a whole one.
            self.prepared = prepare_clip(self.clip, front_end, Path(), self.options.voice_activity)

    def add_speakers(self, transcript: Transcript, on_progress: Callable[[float], None]) -> Transcript:
        """The transcript with the speakers of its words, if they are asked for and somebody waits for it."""
        if self.speakers is None or self.is_dropped:
            return transcript
        if hasattr(self.clip.source, "seek"):
            self.clip.source.seek(0)  # the open file of a long upload, which was read to its end
        return self.speakers.add_to(self.clip, transcript, on_progress)

    def drop(self) -> None:
        """Nobody waits for it any more."""
        self.is_dropped = True


class _DroppedError(Exception):
    """Ends a batch that nobody waits for any more."""


class FileQueue:
    """
    The files that wait, and the thread that works on them.

    Args:
        turn: The turns of the device.
        gather_seconds: Time for which files are gathered, at most: only while others are on their way, see `arriving`.
        max_jobs: Files that may wait or be worked on.
        max_wait_seconds: Longest wait for the files before one, as measured.
        on_work: Called after each batch with its seconds of audio and of computing.
    """

    def __init__(
        self,
        turn: DeviceTurn,
        gather_seconds: float,
        max_jobs: int,
        max_wait_seconds: float,
        on_work: Callable[[float, float], None] = lambda audio, busy: None,
    ) -> None:
        self._turn = turn
        self._gather_seconds = gather_seconds
        self._max_jobs = max_jobs
        self._max_wait_seconds = max_wait_seconds
        self._on_work = on_work
        self._changed = threading.Condition()
        self._waiting: list[FileJob] = []
        self._running: list[FileJob] = []
        self._num_arriving = 0
        self._is_closed = False
        self._audio_seconds = self._busy_seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="fastconformer-files", daemon=True)
        self._thread.start()

    @property
    def num_jobs(self) -> int:
        """Files that wait or are worked on."""
        return len(self._waiting) + len(self._running)

    @property
    def seconds_per_audio_second(self) -> float:
        """Seconds of computing for a second of audio, by the last files; 0 before it is known."""
        return self._busy_seconds / self._audio_seconds if self._audio_seconds else 0.0

    def estimate_wait(self) -> float:
        """Seconds that the files which are there take, as measured; 0 before it is known."""
        with self._changed:
            jobs = [*self._running, *self._waiting]
            left = sum(max(job.seconds - job.done_seconds, 0.0) for job in jobs if not job.is_dropped)
        return left * self.seconds_per_audio_second

    def require_room(self) -> None:
        """
        Raise where a file would wait too long.

        Raises:
            ApiError: 429, with the time to try again.
        """
        wait = self.estimate_wait()
        if self.num_jobs >= self._max_jobs:
            raise _refusal(f"{self.num_jobs} files wait already", max(wait / 2, 1.0))
        if wait > self._max_wait_seconds:
            raise _refusal(f"the files that wait take {wait:.0f} s", wait - self._max_wait_seconds)

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """The time in which a file comes and is decoded: those that wait may wait for it."""
        with self._changed:
            self._num_arriving += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_arriving -= 1
                self._changed.notify_all()

    def submit(self, job: FileJob) -> FileJob:
        """
        Add a file.

        Raises:
            ApiError: 429 where it would wait too long, 503 where the server ends.
        """
        self.require_room()
        with self._changed:
            if self._is_closed:
                raise ApiError("The server ends.", 503, code="shutting_down", kind=SERVER_ERROR)
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def close(self) -> None:
        """Finish what is there, then end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                if self._gather_seconds and not self._is_closed:
                    # One client at a time never waits here: its next file comes after this one's answer.
                    self._changed.wait_for(lambda: self._is_closed or not self._num_arriving, self._gather_seconds)
                self._running = self._take()
            try:
                self._transcribe(self._running)
            except _DroppedError:
                pass
            except BaseException as error:
                logger.exception("A batch of files has failed.")
                for job in self._running:
                    if not job.future.done():
                        job.future.set_exception(error)
            finally:
                for job in self._running:
                    if not job.future.done():
                        job.future.cancel()
                self._running = []

    def _take(self) -> list[FileJob]:
        """The oldest file and those that can go with it: of the same model and options."""
        self._waiting = [job for job in self._waiting if not _is_dropped(job)]
        if not self._waiting:
            return []
        first = self._waiting[0]
        limit = first.options.batch_seconds
        taken: list[FileJob] = []
        seconds = 0.0
        for job in self._waiting:
            is_alike = job.model is first.model and job.options == first.options
            # One batch at a time, so that files which come meanwhile go into the next.
            if is_alike and (not taken or seconds + job.seconds <= limit) and len(taken) < 4 * job.options.batch_size:
                taken.append(job)
                seconds += job.seconds
        self._waiting = [job for job in self._waiting if job not in taken]
        return taken

    def _transcribe(self, jobs: Sequence[FileJob]) -> None:
        if not jobs:
            return
        started = time.monotonic()
        given_away = 0.0

        def report(place: int, seconds: float) -> None:
            jobs[place].done_seconds = seconds
            give_way()

        def give_way(seconds: float = 0.0) -> None:
            nonlocal given_away
            if all(job.is_dropped for job in jobs):
                raise _DroppedError
            before = time.monotonic()
            self._turn.give_way()
            given_away += time.monotonic() - before

        results = transcribe_clips(
            [(jobs[0].model, jobs[0].processor)],
            [job.clip if job.prepared is None else replace(job.clip, source=job.prepared) for job in jobs],
            jobs[0].options,
            [job.seconds for job in jobs],
            on_progress=report,
        )
        # Nobody waits for the speakers of another.
        with_speakers: list[tuple[FileJob, Transcript]] = []
        with closing(results), self._turn.files():
            for finished in results:
                job = jobs[finished.place]
                if finished.error is not None:
                    job.future.set_exception(finished.error)
                elif finished.transcript is not None and job.speakers is not None:
                    with_speakers.append((job, finished.transcript))
                elif finished.transcript is not None:
                    job.future.set_result(finished.transcript)
            for job, transcript in with_speakers:
                _answer_with_speakers(job, transcript, give_way)
        self._count(sum(job.seconds for job in jobs), time.monotonic() - started - given_away)

    def _count(self, audio_seconds: float, busy_seconds: float) -> None:
        kept = max(1.0 - audio_seconds / RATE_WINDOW_SECONDS, 0.0)
        self._audio_seconds = kept * self._audio_seconds + audio_seconds
        self._busy_seconds = kept * self._busy_seconds + busy_seconds
        self._on_work(audio_seconds, busy_seconds)


def _answer_with_speakers(job: FileJob, transcript: Transcript, give_way: Callable[[float], None]) -> None:
    """Answer a job with the speakers; what fails there stops no other job."""
    try:
        transcript = job.add_speakers(transcript, give_way)
    except _DroppedError:
        raise
    except Exception as error:
        job.future.set_exception(error)
    else:
        job.future.set_result(transcript)


def _is_dropped(job: FileJob) -> bool:
    if job.is_dropped:
        job.future.cancel()
    return job.is_dropped


def _refusal(reason: str, retry_seconds: float) -> ApiError:
    return ApiError(
        f"The server is busy: {reason}. Try again in {max(retry_seconds, 1.0):.0f} s.",
        429,
        code="rate_limit_exceeded",
        kind="rate_limit_error",
        retry_seconds=retry_seconds,
    )
