"""A stream of an engine: all that is known of it, while it is open and as it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ..audio.feature_stream import FeatureStream
from ..audio.voice_activity import SpeechProbabilities
from ..decoding.phrase_boosting import CompiledPhrases
from .endpointing import VoiceEndpointing, VoiceState
from .live_clock import LiveClock
from .live_text import LiveText, LiveTextState
from .options import StreamOptions
from .text import NewTokens, StreamWord


class StreamFailedError(RuntimeError):
    """A stream in a step of which something failed, such as memory; it can only be closed. Others go on."""


def no_activities() -> torch.Tensor:
    """Activities of no frames: (0, 2)."""
    return torch.zeros(0, 2, dtype=torch.float32, device="cpu")


@dataclass
class LiveStream:
    """
    A stream of an engine, which moves it on.

    Args:
        row: Its row in the encoder.
        options: Its options.
        text_rules: Those of its tokens.
        features: Samples to features, of the part of the stream since the last `commit`.
        phrases: Phrases that its decoding prefers; None: none.
        pending: Features that no step has taken yet.
        activities: Activities of the speaker and of the others in the frames that no step has taken yet, (frames, 2);
            empty where everybody is followed.
        decoder: State of decoding; None at the start.
        text: State of its text.
        following: Tokens after the decoded frames, which may still be revised.
        revised_confidence: Of the last step: new confidence in the last token before its tokens; else None.
        first_frame: Encoder frame of the stream with which the part since the last `commit` begins.
        num_frames: Encoder frames of the part that are decoded.
        earlier_seconds: Audio before the part.
        shown: Tentative text and words of the last step.
        voice: Probabilities of speech, the rules of the ends by them, and their state; None: not asked for.
        clock: Times of the stream.
        has_given_all: True once the last step of the part is done.
        failure: Error in the middle of a step, after which nobody knows what of the audio was decoded; None before it.
    """

    row: int
    options: StreamOptions
    text_rules: LiveText
    features: FeatureStream
    phrases: CompiledPhrases | None = None
    pending: list[torch.Tensor] = field(default_factory=list)
    activities: torch.Tensor = field(default_factory=no_activities)
    decoder: Any = None
    text: LiveTextState = field(default_factory=LiveTextState)
    following: NewTokens | None = None
    revised_confidence: float | None = None
    first_frame: int = 0
    num_frames: int = 0
    earlier_seconds: float = 0.0
    shown: tuple[str, list[StreamWord]] = field(default_factory=lambda: ("", []))
    voice: tuple[SpeechProbabilities, VoiceEndpointing, VoiceState] | None = None
    clock: LiveClock = field(default_factory=LiveClock)
    has_given_all: bool = False
    failure: str | None = None

    @property
    def heard_seconds(self) -> float:
        return self.earlier_seconds + self.features.seconds_heard

    @property
    def decoded_frames(self) -> int:
        """Encoder frames of the stream that are decoded."""
        return self.first_frame + self.num_frames

    def is_live(self, now_seconds: float) -> bool:
        """Tell whether the audio comes no faster than the clock goes."""
        return self.clock.is_live(now_seconds, self.heard_seconds)

    def require_whole(self, stream_id: int) -> None:
        """Raise a `StreamFailedError` after a step that failed."""
        if self.failure is not None:
            raise StreamFailedError(
                f"stream_id={stream_id!r} has failed in a step ({self.failure}); expected `close`."
            )

    def count_pending(self) -> int:
        return sum(part.shape[0] for part in self.pending)

    def take_activities(self, num_frames: int) -> torch.Tensor:
        """The next activities, (frames, 2), of as many frames; zeros where there are not so many."""
        taken = self.activities[:num_frames]
        self.activities = self.activities[num_frames:]
        return torch.nn.functional.pad(taken, (0, 0, 0, num_frames - taken.shape[0]))

    def take(self, num_mel_frames: int) -> torch.Tensor:
        """The next features, (mel frames, mels), as many as these or all that there are."""
        # Not joined again and again: of an hour that comes at once, each step would copy all of the rest.
        joined = self.pending[0] if len(self.pending) == 1 else torch.cat(self.pending)
        rest = joined[num_mel_frames:]
        # A small rest does not keep the memory of all.
        self.pending = [rest.clone() if rest.shape[0] < num_mel_frames else rest]
        return joined[:num_mel_frames]


@dataclass(frozen=True)
class SavedStream:
    """A stream as it was, with which `StreamingEngine.restore` goes on, in the same engine or in another one alike."""

    engine: str
    options: StreamOptions
    features: dict[str, torch.Tensor]
    pending: torch.Tensor
    encoder: Any
    decoder: Any
    text: LiveTextState
    following: NewTokens | None
    first_frame: int
    num_frames: int
    earlier_seconds: float
    activities: torch.Tensor = field(default_factory=no_activities)
