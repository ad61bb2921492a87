"""Steps of several streams: what is wrong with the values of one of them stays with it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from live_models import build_live, text_of

from transformers_fastconformer import EngineOptions, StreamFailedError, StreamingEngine, StreamUpdate, load_model
from transformers_fastconformer.demonstration import CHECKPOINT_PATH

NOISE = (0.1 * np.random.default_rng(0).standard_normal(38400)).astype(np.float32)


def build_engine(kind: str) -> StreamingEngine:
    options = EngineOptions(latency_ms=80, max_load=1000.0)
    if kind == "buffered":
        return StreamingEngine(*load_model(CHECKPOINT_PATH), EngineOptions(latency_ms=400, max_load=1000.0))
    return StreamingEngine(*build_live(kind), options)


def spoil(engine: StreamingEngine, stream: int) -> None:
    """Put values that are not finite into the state of a stream, as numbers that overflow would."""
    encoder: Any = engine.encoder
    row = engine._streams[stream].row
    if encoder.name == "cached":
        encoder._cache.values[:, row] = math.inf
    else:
        encoder._states[row].features[3, 4] = math.nan


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt", "buffered"])
def test_a_stream_that_is_not_finite_fails_alone(kind: str) -> None:
    engine = build_engine(kind)
    pieces = np.split(NOISE, 6)
    alone, found = engine.open(), []
    expected = [engine.step({alone: piece})[alone] for piece in pieces]
    expected.append(engine.finish(alone))
    streams = [engine.open() for _ in range(3)]
    errors = []
    for number, piece in enumerate(pieces):
        if number == 3:
            spoil(engine, streams[1])
        updates = engine.step(dict.fromkeys(streams, piece))
        found.append({stream: updates[stream] for stream in (streams[0], streams[2])})
        errors.append(updates[streams[1]].error)
    assert errors[:3] == [None] * 3
    assert all(isinstance(error, StreamFailedError) for error in errors[3:])
    assert f"stream_id={streams[1]} has failed" in str(errors[3])
    assert "NaN or infinite" in str(errors[3])
    for stream in (streams[0], streams[2]):
        all_updates: list[StreamUpdate] = [updates[stream] for updates in found]
        all_updates.append(engine.finish(stream))
        assert text_of(all_updates) == text_of(expected)
        assert all(update.error is None for update in all_updates)
    with pytest.raises(StreamFailedError, match="NaN or infinite"):
        engine.finish(streams[1])
    engine.close(streams[1])
    # The row of a stream that failed is clean for the next one.
    again = engine.open()
    fresh = [engine.step({again: piece})[again] for piece in pieces]
    assert text_of([*fresh, engine.finish(again)]) == text_of(expected)


def test_a_finish_of_what_is_not_finite_says_so() -> None:
    engine = build_engine("ctc")
    stream = engine.open()
    engine.step({stream: NOISE[:12800]})
    spoil(engine, stream)
    with pytest.raises(StreamFailedError, match="NaN or infinite"):
        engine.finish(stream, NOISE[12800:25600])
    assert engine.open_streams == [stream]


def test_steps_without_streams_that_are_ready_do_nothing() -> None:
    engine = build_engine("ctc")
    stream = engine.open()
    state = engine._streams[stream]
    assert not engine._steps.is_ready(state, is_last=False)
    assert engine._steps.is_ready(state, is_last=True)
    state.pending = [torch.zeros(engine.encoder.wanted_mel_frames(state.row), 80)]
    assert engine._steps.is_ready(state, is_last=False)
    state.failure = "of the test"
    assert not engine._steps.is_ready(state, is_last=True)
