"""Streams in files: they go on in another engine as if nothing had been; what is not such a file is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_models import build_live, run, text_of, words_of
from safetensors.torch import load_file, save_file

from transformers_fastconformer import (
    ConfidenceOptions,
    DecodingOptions,
    EndpointingOptions,
    EngineOptions,
    StreamingEngine,
    StreamOptions,
    load_model,
    load_stream,
    read_audio,
    save_stream,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS

CONFIDENT = DecodingOptions(confidence=ConfidenceOptions())


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_model(CHECKPOINT_PATH)


@pytest.mark.parametrize("kind", ["demo", "demo_confident", "rnnt", "ctc", "tdt"])
def test_a_stream_in_a_file_goes_on(kind: str, demo: tuple[Any, Any], tmp_path: Path) -> None:
    if kind.startswith("demo"):
        decoding = CONFIDENT if kind == "demo_confident" else DecodingOptions()
        loaded, options = demo, EngineOptions(latency_ms=1600, decoding=decoding)
        samples = np.pad(read_audio(CLIP_PATHS[0]), (0, 16000))
    else:
        loaded, options = build_live(kind), EngineOptions(latency_ms=160)
        samples = (0.1 * np.random.default_rng(0).standard_normal(20000)).astype(np.float32)
    stream_options = StreamOptions(endpointing=EndpointingOptions(blank_ms=400.0))
    engine = StreamingEngine(*loaded, options)
    expected = run(engine, samples, [3000], stream_options)
    first = engine.open(stream_options)
    updates = [engine.step({first: samples[:15001]})[first]]
    path = tmp_path / "stream.safetensors"
    save_stream(engine.save(first), path, engine)
    other = StreamingEngine(*loaded, options)
    second = other.restore(load_stream(path, other))
    updates += [other.step({second: samples[15001:]})[second], other.finish(second)]
    assert text_of(updates) == text_of(expected)
    assert words_of(updates) == words_of(expected)
    assert [end for update in updates for end in update.endpoints] == [
        end for update in expected for end in update.endpoints
    ]


def test_what_is_not_such_a_file_is_refused(demo: tuple[Any, Any], tmp_path: Path) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1600))
    stream = engine.open()
    engine.step({stream: read_audio(CLIP_PATHS[0])})
    path = tmp_path / "stream.safetensors"
    save_stream(engine.save(stream), path, engine)

    def refuse(file: Path, message: str, engine: StreamingEngine = engine) -> None:
        with pytest.raises(ValueError, match=message) as error:
            load_stream(file, engine)
        assert file.name in str(error.value)

    refuse(tmp_path / "missing.safetensors", "missing")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    refuse(cut, "expected a file of save_stream")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    refuse(other, "format=None is not supported; expected 'fastconformer_stream'")
    refuse(path, "engine", StreamingEngine(*demo, EngineOptions(latency_ms=800)))
    refuse(path, "engine", StreamingEngine(*build_live("ctc"), EngineOptions(latency_ms=160)))

    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for change in ('{"kind": "Path", "fields": {}}', "[]", "{", json.dumps({"tensor": "99"})):
        save_file(tensors, other, metadata={**metadata, "state": change})
        refuse(other, "other.safetensors")


@pytest.mark.parametrize("kind", ["demo", "rnnt", "ctc"])
@pytest.mark.parametrize(
    "change",
    [
        {"options": None},
        {"first_frame": "x"},
        {"num_frames": -5},
        {"earlier_seconds": None},
        {"pending": torch.zeros(3, 99)},
        {"pending": []},
        {"pending": torch.full((1, 80), float("nan"))},
        {"encoder": None},
        {"decoder": 3},
        {"text": None},
        {"following": "a"},
    ],
    ids=str,
)
def test_a_state_that_was_changed_is_refused_before_it_can_harm_others(
    kind: str, change: dict[str, Any], demo: tuple[Any, Any]
) -> None:
    loaded, latency_ms = (demo, 1600) if kind == "demo" else (build_live(kind), 160)
    engine = StreamingEngine(*loaded, EngineOptions(latency_ms=latency_ms))
    stream = engine.open()
    engine.step({stream: np.pad(read_audio(CLIP_PATHS[0]), (0, 100))[:20000]})
    saved = engine.save(stream)
    engine.close(engine.restore(saved))
    with pytest.raises(ValueError, match=next(iter(change))):
        engine.restore(replace(saved, **change))
    assert engine.open_streams == [stream]
