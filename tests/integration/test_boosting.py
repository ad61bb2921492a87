"""Phrases and language models through every door: functions, files in windows, pipeline, streams, command."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from transformers_fastconformer import (
    DecodingOptions,
    EngineOptions,
    NgramLanguageModel,
    PhraseBoosting,
    StreamingEngine,
    StreamOptions,
    compile_phrases,
    load_model,
    load_stream,
    read_audio,
    save_stream,
    transcribe,
)
from transformers_fastconformer.demonstration import CLIP_PATHS

# So strong that nothing else is written.
PHRASES = PhraseBoosting(["nine", "four"], strength=20.0)
OTHERS = PhraseBoosting(["six"], strength=20.0)
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module", params=["transducer", "ctc"])
def demo(request: Any) -> tuple[Any, Any]:
    return load_model("demo", request.param)


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    return np.concatenate([np.pad(read_audio(path), (2000, 8000)) for path in CLIP_PATHS]).astype(np.float32)


@pytest.fixture(scope="module")
def language_model(demo: tuple[Any, Any]) -> NgramLanguageModel:
    return NgramLanguageModel.from_text([f"{one} {one}" for one in DIGITS] * 3, demo[1].tokenizer, order=3)


def words(text: str) -> set[str]:
    return set(text.split())


def test_transcribe_prefers_the_phrases(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    plain = transcribe(waveform, model=demo)
    found = transcribe(waveform, model=demo, boosting=PHRASES)
    assert found.text != plain.text
    assert words(found.text) & {"nine", "four"}
    assert not words(found.text) & {"six", "seven"}
    weak = transcribe(waveform, model=demo, boosting=PhraseBoosting(["seven"], strength=0.01))
    assert weak.text == plain.text
    assert weak.timestamps == plain.timestamps


def test_windows_of_a_long_file_carry_the_state(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    """Cut so that phrases lie across the borders; only pieces of the phrases are written."""
    long = np.tile(waveform, 3)
    cut = transcribe(long, model=demo, strategy="chunked", chunk_length_s=4.0, boosting=PHRASES)
    assert cut.strategy == "chunked"
    assert len(cut.text.split()) > 20
    assert words(cut.text) & {"nine", "four"}
    assert not words(cut.text) & {"six", "seven"}


def test_pipeline_and_language_model(
    demo: tuple[Any, Any], waveform: np.ndarray, language_model: NgramLanguageModel
) -> None:
    model, processor = demo
    asr = pipeline("automatic-speech-recognition", model=model, processor=processor)
    expected = transcribe(waveform, model=demo, boosting=PHRASES).text
    inputs = {"raw": waveform, "sampling_rate": 16000}
    assert asr(dict(inputs), generate_kwargs={"boosting": PHRASES})["text"] == expected
    fused = transcribe(waveform, model=demo, language_model=language_model, language_model_weight=6.0)
    assert fused.text != transcribe(waveform, model=demo).text
    kwargs = {"language_model": language_model, "language_model_weight": 6.0}
    assert asr(dict(inputs), generate_kwargs=kwargs)["text"] == fused.text


def test_generate_takes_compiled_phrases_and_a_list_for_the_clips(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    model, processor = demo
    features = processor([waveform] * 3, sampling_rate=16000, return_tensors="pt")
    inputs = {"input_features": features["input_features"], "attention_mask": features["attention_mask"]}
    with pytest.raises(ValueError, match="expected compile_phrases"):
        model.generate(**inputs, boosting=PHRASES)
    nines, sixes = (compile_phrases(one, processor.tokenizer) for one in (PHRASES, OTHERS))
    with pytest.raises(ValueError, match="boosting has 2 lists; expected 3"):
        model.generate(**inputs, boosting=[nines, None])
    found = processor.batch_decode(model.generate(**inputs, boosting=[nines, None, sixes]))
    alone = [
        processor.batch_decode(model.generate(**{name: value[:1] for name, value in inputs.items()}, **options))[0]
        for options in ({"boosting": nines}, {}, {"boosting": sixes})
    ]
    assert found == alone
    assert len(set(found)) == 3


def test_confidence_and_times_are_right(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    from transformers_fastconformer import ConfidenceOptions

    found = transcribe(waveform, model=demo, boosting=PHRASES, confidence=ConfidenceOptions(), timestamps="word")
    assert found.word_confidences is not None
    assert found.timestamps is not None
    spans = found.timestamps["word"]
    assert len(found.word_confidences) == len(spans) == len(found.text.split())
    assert all(0 <= confidence <= 1 for confidence in found.word_confidences)
    assert all(one["end"] <= other["end"] for one, other in pairwise(spans))


def run(engine: StreamingEngine, samples: np.ndarray, options: StreamOptions | None = None) -> str:
    stream = engine.open(options)
    text = "".join(engine.step({stream: part})[stream].committed for part in np.array_split(samples, 9))
    return text + engine.finish(stream).committed


def test_streams_have_phrases_of_their_own(demo: tuple[Any, Any], waveform: np.ndarray, tmp_path: Any) -> None:
    """Next to one another as by themselves, and after having been saved."""
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1500, max_load=1000.0))
    kinds = [StreamOptions(), StreamOptions(boosting=PHRASES), StreamOptions(boosting=OTHERS)]
    alone = [run(engine, waveform, options) for options in kinds]
    assert len(set(alone)) == 3
    assert not words(alone[1]) & {"six", "seven"}
    shared = EngineOptions(latency_ms=1500, max_load=1000.0, decoding=DecodingOptions(boosting=PHRASES))
    assert run(StreamingEngine(*demo, shared), waveform) == alone[1]
    streams = [engine.open(options) for options in kinds]
    texts = [""] * 3
    for number, part in enumerate(np.array_split(waveform, 7)):
        # The first stream waits once, so that the others meet without it.
        named = streams[1:] if number == 2 else streams
        held = dict.fromkeys(named, part)
        if number == 3:
            held[streams[0]] = np.concatenate([np.array_split(waveform, 7)[2], part])
        for stream, update in engine.step(held).items():
            texts[streams.index(stream)] += update.committed
        if number == 4:
            save_stream(engine.save(streams[1]), tmp_path / "one.safetensors", engine)
            engine.close(streams[1])
            streams[1] = engine.restore(load_stream(tmp_path / "one.safetensors", engine))
    for place, stream in enumerate(streams):
        texts[place] += engine.finish(stream).committed
    assert texts == alone


def test_what_does_not_fit_is_refused_before_anything_is_read(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    other = NgramLanguageModel.from_text(["one"], demo[1].tokenizer, order=1)
    with pytest.raises(ValueError, match="language_model"):
        transcribe("missing.wav", model=demo, language_model="lm.arpa")
    with pytest.raises(ValueError, match=r"language_model_weight=0\.5 needs language_model"):
        transcribe("missing.wav", model=demo, language_model_weight=0.5)
    with pytest.raises(ValueError, match="'Quebec' cannot be written"):
        transcribe("missing.wav", model=demo, boosting=PhraseBoosting(["Quebec"]))
    with pytest.raises(ValueError, match="'Quebec' cannot be written"):
        StreamingEngine(*demo).open(StreamOptions(boosting=PhraseBoosting(["Quebec"])))
    with pytest.raises(ValueError, match="phrases for all recordings"):
        transcribe("missing.wav", model=demo, boosting=[PHRASES, None])
    short = type(other.automaton).empty(7)
    with pytest.raises(ValueError, match="7 tokens; expected 48"):
        transcribe("missing.wav", model=demo, language_model=NgramLanguageModel(short))
    assert torch.is_tensor(other.automaton.root_weights)
