"""Words given to speakers: overlap, distance to intervals, ties, and the transcripts that come of it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from transformers_fastconformer import SpeakerTurn, add_speakers, assign_speakers
from transformers_fastconformer.inference.transcript import Transcript


def word(start: float, end: float, text: str = "x") -> dict[str, Any]:
    return {"word": text, "start": start, "end": end, "start_offset": int(start * 10), "end_offset": int(end * 10)}


TURNS = [SpeakerTurn(0, 0.0, 2.0), SpeakerTurn(1, 1.5, 4.0), SpeakerTurn(0, 6.0, 20.0)]


@pytest.mark.parametrize(
    ("times", "speaker"),
    [
        ((0.5, 1.0), 0),
        ((1.4, 1.9), 0),  # 0.5 s of one, 0.4 s of the other
        ((1.9, 2.5), 1),
        ((4.1, 4.4), 1),  # nearer to the turn before
        ((5.5, 5.9), 0),  # nearer to the turn after, whose middle is far away
        ((25.0, 25.5), 0),
        ((3.0, 3.0), 1),  # without length
        ((4.5, 4.5), 1),
    ],
)
def test_the_largest_overlap_counts_else_the_nearest_turn(times: tuple[float, float], speaker: int) -> None:
    assert assign_speakers([word(*times)], TURNS) == [speaker]


def test_with_as_much_the_speaker_before_goes_on() -> None:
    both = [SpeakerTurn(0, 0.0, 3.0), SpeakerTurn(1, 0.5, 3.0)]
    assert assign_speakers([word(1.0, 2.0)], both) == [1]  # who interrupts
    assert assign_speakers([word(0.1, 0.4), word(1.0, 2.0)], both) == [0, 0]
    assert assign_speakers([word(0.1, 0.2)], []) == [None]


def test_a_search_equals_a_look_at_all_turns() -> None:
    generator = random.Random(3)
    for _ in range(200):
        turns, at = [], 0.0
        for _ in range(generator.randint(1, 12)):
            at += generator.uniform(0.0, 2.0)
            turns.append(SpeakerTurn(generator.randrange(3), at, at + generator.uniform(0.1, 6.0)))
        words, at = [], 0.0
        for _ in range(30):
            at += generator.uniform(0.0, 1.5)
            words.append(word(at, at + generator.uniform(0.05, 0.8)))
        expected: list[int | None] = []
        for item in words:
            shared: dict[int, float] = {}
            for turn in turns:
                overlap = min(item["end"], turn.end) - max(item["start"], turn.start)
                if overlap > 0:
                    shared[turn.speaker] = shared.get(turn.speaker, 0.0) + overlap
            if shared:
                most = max(shared.values())
                chosen = {speaker for speaker, seconds in shared.items() if seconds == most}
            else:
                distances = {turn: max(item["start"] - turn.end, turn.start - item["end"], 0.0) for turn in turns}
                chosen = {turn.speaker for turn in turns if distances[turn] == min(distances.values())}
            (found,) = assign_speakers([item], turns)
            assert found in chosen
            expected.append(found)
        assert len(assign_speakers(words, turns)) == len(expected)


def test_a_transcript_has_speakers_and_segments_of_one_speaker() -> None:
    words = [word(0.1, 0.4, "Hello"), word(0.5, 0.9, "there."), word(2.2, 2.6, "Hi,"), word(2.7, 3.0, "you.")]
    segments = [{"segment": "Hello there. Hi, you.", "start": 0.1, "end": 3.0, "start_offset": 1, "end_offset": 30}]
    transcript = Transcript("Hello there. Hi, you.", {"word": words, "segment": segments}, 4.0)
    found = add_speakers(transcript, TURNS)
    assert found.timestamps is not None
    assert [item["speaker"] for item in found.timestamps["word"]] == ["speaker_0"] * 2 + ["speaker_1"] * 2
    first = {"start": 0.1, "end": 0.9, "start_offset": 1, "end_offset": 9}
    second = {"start": 2.2, "end": 3.0, "start_offset": 22, "end_offset": 30}
    assert found.timestamps["segment"] == [
        {"segment": "Hello there.", **first, "speaker": "speaker_0"},
        {"segment": "Hi, you.", **second, "speaker": "speaker_1"},
    ]
    assert "speaker" not in transcript.timestamps["word"][0]
    plain = add_speakers(transcript, [])
    assert all("speaker" not in item for item in plain.timestamps["word"])
    only = add_speakers(Transcript("a", {"segment": segments}, 4.0), TURNS)
    assert only.timestamps["segment"][0]["speaker"] == "speaker_0"
    with pytest.raises(ValueError, match="transcript has no times"):
        add_speakers(Transcript("a", None, 1.0), TURNS)
