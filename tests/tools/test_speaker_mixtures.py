"""Conversations of digits: who speaks when is what is heard."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

from digit_data import SAMPLING_RATE, Utterance
from speaker_mixtures import SpokenTurn, frame_labels, make_conversation


def make_clips() -> dict[str, list[Utterance]]:
    generator = np.random.default_rng(0)
    return {
        name: [Utterance(generator.normal(0, 0.1, 6000).astype(np.float32), (digit,), name) for digit in range(10)]
        for name in ("ann", "bob", "cem")
    }


@pytest.mark.parametrize("overlap_chance", [0.0, 1.0])
def test_turns_are_where_it_is_loud(overlap_chance: float) -> None:
    talk = make_conversation(make_clips(), np.random.default_rng(3), 3, 30.0, overlap_chance)
    assert len(talk.waveform) == 30 * SAMPLING_RATE
    assert {turn.speaker for turn in talk.turns} == {"ann", "bob", "cem"}
    assert all(turn.end <= 30.0 and len(turn.words) >= 1 for turn in talk.turns)
    pairs = list(zip(talk.turns, talk.turns[1:], strict=False))
    assert all(one.start < other.start and one.speaker != other.speaker for one, other in pairs)
    assert any(one.end > other.start for one, other in pairs) == bool(overlap_chance)
    is_spoken = np.zeros(len(talk.waveform), bool)
    for turn in talk.turns:
        is_spoken[round(turn.start * SAMPLING_RATE) : round(turn.end * SAMPLING_RATE)] = True
    power = talk.waveform.astype(np.float64) ** 2
    assert power[is_spoken].mean() > 20 * power[~is_spoken].mean()


def test_one_seed_makes_one_conversation() -> None:
    one, other = (make_conversation(make_clips(), np.random.default_rng(5), 2, 10.0) for _ in range(2))
    assert one.turns == other.turns
    assert np.array_equal(one.waveform, other.waveform)


def test_labels_are_those_of_the_middles_of_frames() -> None:
    turns = (SpokenTurn("b", 0.1, 0.3, ("one",)), SpokenTurn("a", 0.25, 0.45, ("two",)))
    labels = frame_labels(turns, ["a", "b"], 5, 0.1)
    assert labels.tolist() == [[False, False], [False, True], [True, True], [True, False], [False, False]]
