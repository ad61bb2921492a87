"""
Ends of utterances in live streams: by frames without tokens, by the checkpoint's own tokens, by voice activity.

Pure state machines over frame numbers and probabilities, which know neither models nor audio. They go frame by frame,
so that their events do not depend on how the audio was cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..audio.voice_activity import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    DETECTOR_SAMPLING_RATE,
    TOLERANCE,
    VoiceActivityOptions,
)
from ..frames import seconds_from_samples
from ..validation import is_number, require, require_count

KINDS = ("blanks", "tokens", "voice_activity")
SPEECH_STARTED, SPEECH_STOPPED, END_OF_UTTERANCE = "speech_started", "speech_stopped", "end_of_utterance"


@dataclass(frozen=True)
class EndpointingOptions:
    """
    Options of finding the ends of utterances.

    Args:
        kinds: Some of `"blanks"` (frames without tokens), `"tokens"` (the checkpoint's own, such as `<EOU>`) and
            `"voice_activity"`; none: there are no events.
        blank_ms: An utterance ends where more than that passes after its last token without another one (NeMo 3.0.0:
            `stop_history_eou`), rounded up to whole frames.
        residue_frames: The last frames so far that do not count yet as frames without tokens (NeMo 3.0.0:
            `residue_tokens_at_end`).
        event_tokens: Tokens that end an utterance, of those that the tokenizer has.
        threshold, end_threshold: Speech begins and ends by these probabilities, as in [`VoiceActivityOptions`].
        min_speech_ms: Shorter speech does not count.
        silence_ms: Speech has stopped once it was silent for so long.
        prefix_padding_ms: Speech is taken to start so much earlier, but not before the speech before it ended.

    Raises:
        ValueError: for a value that is not accepted.
    """

    kinds: tuple[str, ...] = ("blanks", "tokens")
    blank_ms: float = 800.0
    residue_frames: int = 2
    event_tokens: tuple[str, ...] = ("<EOU>", "<EOB>")
    threshold: float = 0.5
    end_threshold: float | None = None
    min_speech_ms: float = 0.0
    silence_ms: float = 500.0
    prefix_padding_ms: float = 300.0

    def __post_init__(self) -> None:
        kinds = self.kinds
        is_tuple = isinstance(kinds, tuple) and set(kinds) <= set(KINDS) and len(set(kinds)) == len(kinds)
        require(is_tuple, "kinds", kinds, f"a tuple of some of {KINDS}")
        for name in ("blank_ms", "silence_ms"):
            value = getattr(self, name)
            require(is_number(value) and value > 0, name, value, "milliseconds, more than 0")
        for name in ("min_speech_ms", "prefix_padding_ms"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, name, value, "milliseconds, 0 or more")
        require_count("residue_frames", self.residue_frames, 0)
        tokens = self.event_tokens
        is_tuple = isinstance(tokens, tuple) and all(isinstance(token, str) for token in tokens)
        require(is_tuple, "event_tokens", tokens, "a tuple of tokens")
        self.voice_activity  # noqa: B018 (its thresholds are checked)

    @property
    def voice_activity(self) -> VoiceActivityOptions:
        """The options of voice activity, in the form for whole recordings."""
        return VoiceActivityOptions(
            threshold=self.threshold,
            end_threshold=self.end_threshold,
            min_speech_seconds=self.min_speech_ms / 1000,
            min_silence_seconds=self.silence_ms / 1000,
            padding_seconds=self.prefix_padding_ms / 1000,
        )


class EndpointEvent(NamedTuple):
    """
    Something that was found in a stream.

    Args:
        kind: `"end_of_utterance"`, `"speech_started"` or `"speech_stopped"`.
        cause: One of `KINDS`.
        seconds: Place in the stream: the end of the utterance or the speech, or its start with the padding.
        detected_seconds: Length of the stream that had to be heard to find it.
        num_tokens: Tokens of the stream up to there, event tokens included; None by voice activity.
        token: The event token, None for other causes.
    """

    kind: str
    cause: str
    seconds: float
    detected_seconds: float
    num_tokens: int | None = None
    token: str | None = None

    @property
    def is_end(self) -> bool:
        """True where an utterance ends."""
        return self.kind != SPEECH_STARTED


@dataclass(frozen=True)
class BlankState:
    """
    State of the ends by tokens and by frames without them.

    Args:
        num_tokens: Tokens so far, event tokens included.
        last_frame: Frame of the last token of an utterance that has not ended; None before one.
    """

    num_tokens: int = 0
    last_frame: int | None = None


@dataclass(frozen=True)
class VoiceState:
    """
    State of the ends by voice activity, in chunks of `CHUNK_SECONDS`.

    Args:
        num_chunks: Chunks so far.
        is_speech: The last one was speech.
        start_chunk: First chunk of the speech that has not stopped; None in silence.
        stop_chunk: The chunk after its last one so far.
        is_announced: Its start was reported, as it is long enough.
        last_stop_chunk: The chunk after the last one of the speech before it that was reported.
    """

    num_chunks: int = 0
    is_speech: bool = False
    start_chunk: int | None = None
    stop_chunk: int = 0
    is_announced: bool = False
    last_stop_chunk: int = 0


class BlankEndpointing:
    """
    Ends of utterances by tokens and frames without them, for the streams of a checkpoint.

    Args:
        options: The options.
        frame_seconds: Seconds from one encoder frame to the next.
        event_names: Id and name of the checkpoint's event tokens.
    """

    def __init__(
        self, options: EndpointingOptions, frame_seconds: float, event_names: Mapping[int, str] | None = None
    ) -> None:
        self.options = options
        self.frame_seconds = frame_seconds
        self._event_names = dict(event_names or {})
        frame_microseconds = round(frame_seconds * 1e6)
        self._blank_frames = -(-round(options.blank_ms * 1000) // frame_microseconds)

    def advance(
        self, state: BlankState, token_ids: Sequence[int], frame_indices: Sequence[int], num_frames: int
    ) -> tuple[list[EndpointEvent], BlankState]:
        """
        Events of new frames, in order, and the state for those that follow.

        Args:
            state: What the call before returned; `BlankState()` at the start.
            token_ids: New tokens, without blanks.
            frame_indices: Encoder frame of the stream of each.
            num_frames: Encoder frames of the stream that are decoded by now.
        """
        events: list[EndpointEvent] = []
        for token_id, frame in zip(token_ids, frame_indices, strict=True):
            state = self._look_for_blanks(state, int(frame), int(frame) + 1, events)
            num_tokens = state.num_tokens + 1
            name = self._event_names.get(int(token_id))
            if name is None:
                state = BlankState(num_tokens, int(frame))
                continue
            state = replace(state, num_tokens=num_tokens)
            if "tokens" in self.options.kinds and name in self.options.event_tokens:
                seconds = (int(frame) + 1) * self.frame_seconds
                events.append(EndpointEvent(END_OF_UTTERANCE, "tokens", seconds, seconds, num_tokens, name))
                state = replace(state, last_frame=None)
        return events, self._look_for_blanks(state, num_frames - self.options.residue_frames, num_frames, events)

    def _look_for_blanks(
        self, state: BlankState, counted_frames: int, num_frames: int, events: list[EndpointEvent]
    ) -> BlankState:
        """
        The state after frames without tokens.

        Args:
            state: The state.
            counted_frames: Frames of the stream up to the last one that is known to have no token.
            num_frames: Frames that are decoded.
            events: An end is added to it.
        """
        if state.last_frame is None or "blanks" not in self.options.kinds:
            return state
        end_frame = state.last_frame + 1
        needed_frames = end_frame + self._blank_frames + 1
        if counted_frames < needed_frames:
            return state
        # Known after the residue at the latest, or earlier by a token in the residue.
        detected = min(needed_frames + self.options.residue_frames, num_frames)
        seconds, detected_seconds = end_frame * self.frame_seconds, detected * self.frame_seconds
        events.append(EndpointEvent(END_OF_UTTERANCE, "blanks", seconds, detected_seconds, state.num_tokens))
        return replace(state, last_frame=None)


class VoiceEndpointing:
    """
    Starts and stops of speech, those of `find_segments` for a whole recording, as soon as they are certain.

    Args:
        options: The options.
    """

    def __init__(self, options: EndpointingOptions) -> None:
        self.options = options
        self._voice_activity = options.voice_activity
        self._silent_chunks = _count_chunks(options.silence_ms)
        self._speech_chunks = _count_chunks(options.min_speech_ms)

    def advance(
        self, state: VoiceState, probabilities: Sequence[float], num_samples: int | None = None
    ) -> tuple[list[EndpointEvent], VoiceState]:
        """
        Events of new chunks, in order, and the state for those that follow.

        Args:
            state: What the call before returned; `VoiceState()` at the start.
            probabilities: Of speech in each new chunk, see [`SpeechProbabilities`].
            num_samples: Samples of the stream at the rate of the detector, at its end; speech stops there. None: it
                goes on.
        """
        events: list[EndpointEvent] = []
        options = self._voice_activity
        for probability in probabilities:
            chunk = state.num_chunks
            is_speech = probability >= (options.lower_threshold if state.is_speech else options.threshold)
            state = replace(state, num_chunks=chunk + 1, is_speech=bool(is_speech))
            if is_speech:
                start = chunk if state.start_chunk is None else state.start_chunk
                state = replace(state, start_chunk=start, stop_chunk=chunk + 1)
                if not state.is_announced and chunk + 1 - start >= self._speech_chunks:
                    seconds = max(_seconds(start) - options.padding_seconds, _seconds(state.last_stop_chunk))
                    events.append(EndpointEvent(SPEECH_STARTED, "voice_activity", seconds, _seconds(chunk + 1)))
                    state = replace(state, is_announced=True)
            elif chunk + 1 - state.stop_chunk >= self._silent_chunks:
                state = _stop(state, events, _seconds(chunk + 1))
        if num_samples is not None:
            state = _stop(state, events, seconds_from_samples(num_samples, DETECTOR_SAMPLING_RATE))
        return events, state


def _stop(state: VoiceState, events: list[EndpointEvent], now_seconds: float) -> VoiceState:
    """The state after speech has stopped, if there was some."""
    if state.is_announced:
        stop_seconds = min(_seconds(state.stop_chunk), now_seconds)
        events.append(EndpointEvent(SPEECH_STOPPED, "voice_activity", stop_seconds, now_seconds))
        state = replace(state, last_stop_chunk=state.stop_chunk)
    return replace(state, start_chunk=None, is_announced=False)


def _seconds(chunks: int) -> float:
    return seconds_from_samples(chunks * CHUNK_SAMPLES, DETECTOR_SAMPLING_RATE)


def _count_chunks(milliseconds: float) -> int:
    """Chunks that last as long, rounded up; what is a millionth of a chunk longer than three chunks is three."""
    return math.ceil(milliseconds / (1000 * CHUNK_SECONDS) - TOLERANCE)
