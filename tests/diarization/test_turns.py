"""Turns of speakers from probabilities: onset and offset, padding, short speech and short gaps."""

from __future__ import annotations

import numpy as np
import pytest

from transformers_fastconformer import SpeakerTurn, SpeakerTurnOptions, find_turns

FRAME = 0.08


def turns_of(rows: list[list[float]], **options: float) -> list[SpeakerTurn]:
    probabilities = np.array(rows, dtype=np.float32)
    found = find_turns(probabilities, FRAME, FRAME * len(rows), SpeakerTurnOptions(**options))
    return [SpeakerTurn(turn.speaker, round(turn.start, 6), round(turn.end, 6)) for turn in found]


def test_turns_overlap_and_are_in_order() -> None:
    rows = [[0.9, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9], [0.1, 0.1], [0.9, 0.1]]
    assert turns_of(rows) == [(0, 0.0, 0.24), (1, 0.16, 0.32), (0, 0.4, 0.48)]


def test_a_turn_begins_above_and_ends_below() -> None:
    rows = [[0.5], [0.6], [0.45], [0.3], [0.45], [0.6]]
    assert turns_of(rows) == [(0, 0.08, 0.16), (0, 0.4, 0.48)]
    assert turns_of(rows, offset=0.4) == [(0, 0.08, 0.24), (0, 0.4, 0.48)]
    assert turns_of(rows, onset=0.7) == []


def test_padding_stays_in_the_recording_and_joins() -> None:
    rows = [[0.9], [0.1], [0.1], [0.9], [0.9]]
    assert turns_of(rows, pad_onset_seconds=0.05, pad_offset_seconds=0.06) == [(0, 0.0, 0.14), (0, 0.19, 0.4)]
    assert turns_of(rows, pad_onset_seconds=0.1, pad_offset_seconds=0.1) == [(0, 0.0, 0.4)]


def test_short_turns_go_before_short_gaps_are_filled() -> None:
    rows = [[0.9]] * 5 + [[0.1]] + [[0.9]] + [[0.1]] + [[0.9]] * 5
    assert turns_of(rows, min_speech_seconds=0.1) == [(0, 0.0, 0.4), (0, 0.64, 1.04)]
    assert turns_of(rows, min_speech_seconds=0.1, min_silence_seconds=0.2) == [(0, 0.0, 0.4), (0, 0.64, 1.04)]
    assert turns_of(rows, min_speech_seconds=0.1, min_silence_seconds=0.25) == [(0, 0.0, 1.04)]
    assert turns_of(rows, min_silence_seconds=0.1) == [(0, 0.0, 1.04)]


def test_an_offset_above_the_onset_cuts_into_steps_that_padding_joins() -> None:
    rows = [[0.1], [0.7], [0.7], [0.1]]
    assert len(turns_of(rows, onset=0.5, offset=0.9)) == 8
    assert turns_of(rows, onset=0.5, offset=0.9, pad_onset_seconds=0.02) == [(0, 0.06, 0.23)]


def test_nothing() -> None:
    assert find_turns(np.zeros((0, 4), np.float32), FRAME, 0.0) == []
    assert find_turns(np.zeros((5, 4), np.float32), FRAME, 0.4) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"onset": 1.5}, "onset=1.5 is not supported; expected a probability"),
        ({"offset": None}, "offset=None is not supported"),
        ({"pad_onset_seconds": -1.0}, "pad_onset_seconds=-1.0 is not supported; expected seconds, 0 or more"),
    ],
)
def test_what_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeakerTurnOptions(**options)


def test_tuned_rules_have_names() -> None:
    assert SpeakerTurnOptions.named("dihard3").offset == 1.0
    with pytest.raises(ValueError, match=r"name='ami' is not supported; expected one of .*dihard3"):
        SpeakerTurnOptions.named("ami")
