"""Turns of speakers from their probabilities, by NeMo's rules (`ts_vad_post_processing`, NeMo 3.0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..validation import is_number, require, require_choice

# NeMo looks at probabilities in steps of it. That matters where `offset` is above `onset`: a turn then ends one step
# after it began, and what is added at its ends joins it with the next.
UNIT_SECONDS = 0.01


class SpeakerTurn(NamedTuple):
    """
    A stretch in which one speaker speaks; others may speak at the same time.

    Args:
        speaker: Number of the speaker, from 0, in the order in which they first speak.
        start, end: In seconds from the start of the recording.
    """

    speaker: int
    start: float
    end: float


@dataclass(frozen=True)
class SpeakerTurnOptions:
    """
    Rules for turns.

    Args:
        onset: A turn begins where the probability is above it.
        offset: It ends where the probability is below it.
        pad_onset_seconds, pad_offset_seconds: Added before and after each turn.
        min_speech_seconds: Shorter turns do not count.
        min_silence_seconds: Shorter gaps within a speaker's turns are filled.

    Raises:
        ValueError: for a value that is not a probability or a duration.
    """

    onset: float = 0.5
    offset: float = 0.5
    pad_onset_seconds: float = 0.0
    pad_offset_seconds: float = 0.0
    min_speech_seconds: float = 0.0
    min_silence_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("onset", "offset"):
            value = getattr(self, name)
            require(is_number(value) and 0 <= value <= 1, name, value, "a probability")
        for name in ("pad_onset_seconds", "pad_offset_seconds", "min_speech_seconds", "min_silence_seconds"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, name, value, "seconds, 0 or more")

    @classmethod
    def named(cls, name: str) -> SpeakerTurnOptions:
        """
        Rules that the makers of the checkpoints tuned for a data set.

        Args:
            name: One of `TUNED`: the first two are for the streaming checkpoints, the others for
                diar_sortformer_4spk-v1.
        """
        require_choice("name", name, tuple(TUNED))
        return TUNED[name]


TUNED = {
    "dihard3": SpeakerTurnOptions(0.56, 1.0, 0.063, 0.002, 0.007, 0.151),
    "callhome": SpeakerTurnOptions(0.641, 0.561, 0.229, 0.079, 0.511, 0.296),
    "v1-dihard3": SpeakerTurnOptions(0.64, 0.74, 0.06, 0.0, 0.1, 0.15),
    "v1-callhome": SpeakerTurnOptions(0.53, 0.49, 0.23, 0.01, 0.42, 0.34),
}


def find_turns(
    probabilities: np.ndarray,
    frame_seconds: float,
    duration_seconds: float,
    options: SpeakerTurnOptions | None = None,
) -> list[SpeakerTurn]:
    """
    Find the turns of all speakers.

    Args:
        probabilities: (frames, speakers).
        frame_seconds: Seconds of a frame.
        duration_seconds: Length of the recording, in which all turns lie.
        options: The rules; None: the defaults.

    Returns:
        The turns by their start; those of a speaker do not touch.
    """
    options = SpeakerTurnOptions() if options is None else options
    turns = []
    per_frame = max(1, round(frame_seconds / UNIT_SECONDS))
    unit = frame_seconds / per_frame
    for speaker, column in enumerate(probabilities.T):
        stretches = [
            (max(0.0, start * unit - options.pad_onset_seconds), end * unit + options.pad_offset_seconds)
            for start, end in _find_stretches(np.repeat(column, per_frame), options.onset, options.offset)
        ]
        stretches = [one for one in _merge(stretches, 0.0) if one[1] - one[0] >= options.min_speech_seconds]
        for start, end in _merge(stretches, options.min_silence_seconds):
            if start < duration_seconds:
                turns.append(SpeakerTurn(speaker, start, min(end, duration_seconds)))
    return sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker))


def _find_stretches(probabilities: np.ndarray, onset: float, offset: float) -> list[tuple[int, int]]:
    """The first step, and the one after the last, of each stretch."""
    found: list[tuple[int, int]] = []
    start: int | None = None
    for place, probability in enumerate(probabilities.tolist()):
        if start is None:
            start = place if probability > onset else None
        elif probability < offset:
            found.append((start, place))
            start = None
    if start is not None:
        found.append((start, len(probabilities)))
    return found


def _merge(stretches: list[tuple[float, float]], min_gap: float) -> list[tuple[float, float]]:
    """Stretches in order, joined where less than so many seconds lie between them."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(stretches):
        if joined and (start <= joined[-1][1] or start - joined[-1][1] < min_gap):
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined
