"""Ends of utterances: the rules, that no cutting of the audio changes them, and the options."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer.audio.voice_activity import CHUNK_SECONDS, find_segments
from transformers_fastconformer.streaming.endpointing import (
    BlankEndpointing,
    BlankState,
    EndpointEvent,
    EndpointingOptions,
    VoiceEndpointing,
    VoiceState,
)

FRAME = 0.08
EVENTS = {5: "<EOU>", 6: "<EOB>", 7: "<noise>"}


def endpointing(**options: Any) -> BlankEndpointing:
    return BlankEndpointing(EndpointingOptions(**options), FRAME, EVENTS)


def run(rules: BlankEndpointing, tokens: list[tuple[int, int]], stops: list[int]) -> list[EndpointEvent]:
    """Events of a stream of (id, frame) pairs that is decoded up to each of the stops."""
    events, state, start = [], BlankState(), 0
    for stop in stops:
        new = [token for token in tokens if start <= token[1] < stop]
        found, state = rules.advance(state, [token for token, _ in new], [frame for _, frame in new], stop)
        events += found
        start = stop
    return events


def test_an_utterance_ends_after_more_blanks_than_asked_for() -> None:
    rules = endpointing(blank_ms=800)  # ten frames
    assert run(rules, [(1, 3), (2, 4)], [17]) == []
    (event,) = run(rules, [(1, 3), (2, 4)], [18])  # 4 + 1 + 10 + 1, and the residue of 2
    assert event == EndpointEvent("end_of_utterance", "blanks", 5 * FRAME, 18 * FRAME, 2)
    assert event.is_end
    assert run(rules, [(1, 3), (2, 4)], [18, 400]) == [event]  # once, and not again without new tokens
    assert len(run(rules, [(1, 3), (2, 30)], [60])) == 2
    assert run(rules, [], [500]) == []
    assert len(run(endpointing(blank_ms=801), [(1, 3)], [17])) == 0  # eleven frames
    assert len(run(endpointing(blank_ms=801), [(1, 3)], [18])) == 1
    assert len(run(endpointing(blank_ms=800, residue_frames=0), [(1, 3)], [15])) == 1


def test_a_token_in_the_residue_does_not_hide_the_end() -> None:
    rules = endpointing(blank_ms=800)
    (event,) = run(rules, [(1, 3), (2, 15)], [16])
    assert event == EndpointEvent("end_of_utterance", "blanks", 4 * FRAME, 16 * FRAME, 1)
    assert run(rules, [(1, 3), (2, 14)], [15]) == []


def test_tokens_of_the_checkpoint_end_an_utterance() -> None:
    rules = endpointing()
    (event,) = run(rules, [(1, 3), (5, 8), (7, 9)], [100])
    assert event == EndpointEvent("end_of_utterance", "tokens", 9 * FRAME, 9 * FRAME, 2, "<EOU>")
    assert [item.token for item in run(rules, [(1, 3), (6, 8), (2, 9), (5, 11)], [12])] == ["<EOB>", "<EOU>"]
    assert [item.token for item in run(endpointing(event_tokens=("<EOU>",)), [(6, 8), (5, 11)], [12])] == ["<EOU>"]
    assert [item.cause for item in run(endpointing(kinds=("blanks",)), [(1, 3), (5, 8)], [100])] == ["blanks"]
    assert run(endpointing(kinds=()), [(1, 3), (5, 8)], [100]) == []


@pytest.mark.parametrize("kinds", [("blanks",), ("tokens",), ("blanks", "tokens")])
def test_events_do_not_depend_on_the_chunks(kinds: tuple[str, ...]) -> None:
    rng = random.Random(0)
    num_events = 0
    for _ in range(200):
        rules = endpointing(kinds=kinds, blank_ms=rng.choice((80, 400, 900)), residue_frames=rng.randrange(4))
        frames = sorted(rng.randrange(150) for _ in range(rng.randrange(20)))
        tokens = [(rng.choice((1, 2, 3, 5, 6, 7)), frame) for frame in frames]
        whole = run(rules, tokens, [150])
        assert run(rules, tokens, [*range(1, 151)]) == whole
        assert run(rules, tokens, [*sorted(rng.randrange(151) for _ in range(10)), 150]) == whole
        num_events += len(whole)
    assert num_events > 100


def run_voice(rules: VoiceEndpointing, probabilities: np.ndarray, sizes: list[int]) -> list[EndpointEvent]:
    events, state, start = [], VoiceState(), 0
    for size in sizes:
        found, state = rules.advance(state, probabilities[start : start + size].tolist())
        events += found
        start += size
    found, _ = rules.advance(state, probabilities[start:].tolist(), len(probabilities) * 512)
    return events + found


def test_speech_starts_and_stops_as_in_the_whole_recording() -> None:
    generator = np.random.default_rng(0)
    num_segments = 0
    for _ in range(100):
        options = EndpointingOptions(
            kinds=("voice_activity",),
            min_speech_ms=float(generator.choice([0, 64, 100])),
            silence_ms=float(generator.choice([10, 96, 500])),
            prefix_padding_ms=0.0,
        )
        steps = generator.random(100) * 1.2 - 0.6
        probabilities = np.clip(np.cumsum(steps) / 2 % 1.0, 0, 1).astype(np.float32)
        rules = VoiceEndpointing(options)
        whole = run_voice(rules, probabilities, [])
        expected = find_segments(probabilities, len(probabilities) * CHUNK_SECONDS, options.voice_activity)
        assert [event.seconds for event in whole] == [time for segment in expected for time in segment]
        assert [event.kind for event in whole] == ["speech_started", "speech_stopped"] * len(expected)
        for sizes in ([1] * 100, [7] * 10, [0, 50]):
            assert run_voice(rules, probabilities, sizes) == whole
        num_segments += len(expected)
    assert num_segments > 200


def test_events_of_voice_activity_come_as_soon_as_they_are_certain() -> None:
    probabilities = np.repeat([0.0, 0.9, 0.4, 0.2, 0.9], [20, 10, 2, 30, 3])
    options = EndpointingOptions(kinds=("voice_activity",), min_speech_ms=96, silence_ms=320, prefix_padding_ms=200)
    events = run_voice(VoiceEndpointing(options), probabilities, [1] * 65)
    found = [(event.kind, event.is_end, round(event.seconds, 3), round(event.detected_seconds, 3)) for event in events]
    assert found == [
        ("speech_started", False, 0.44, 0.736),  # 20 x 32 ms less the padding; known after three chunks
        ("speech_stopped", True, 1.024, 1.344),  # 0.4 still counts; known ten chunks later
        ("speech_started", False, 1.784, 2.08),
        ("speech_stopped", True, 2.08, 2.08),  # the end of the stream
    ]


def test_the_padding_does_not_reach_into_the_speech_before() -> None:
    probabilities = np.repeat([0.9, 0.0, 0.9], [10, 4, 3])
    options = EndpointingOptions(kinds=("voice_activity",), silence_ms=128, prefix_padding_ms=300)
    events = run_voice(VoiceEndpointing(options), probabilities, [])
    assert [round(event.seconds, 3) for event in events] == [0.0, 0.32, 0.32, 0.544]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("silence",)}, "kinds=.*expected a tuple of some of"),
        ({"kinds": "blanks"}, "kinds='blanks'"),
        ({"kinds": ("blanks", "blanks")}, "kinds="),
        ({"blank_ms": 0}, "blank_ms=0 is not supported; expected milliseconds, more than 0"),
        ({"silence_ms": -1}, "silence_ms=-1"),
        ({"prefix_padding_ms": "300"}, "prefix_padding_ms='300'"),
        ({"min_speech_ms": float("nan")}, "min_speech_ms=nan"),
        ({"residue_frames": 1.5}, "residue_frames=1.5"),
        ({"event_tokens": ["<EOU>"]}, "event_tokens="),
        ({"threshold": 2.0}, "threshold=2.0"),
        ({"end_threshold": 0.9}, "end_threshold=0.9"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointingOptions(**options)
