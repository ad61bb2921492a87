"""Beam search through every door: functions, files in windows, pipeline, streams, command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import pipeline
from typer.testing import CliRunner

from transformers_fastconformer import (
    BeamOptions,
    DecodingOptions,
    EngineOptions,
    NgramLanguageModel,
    PhraseBoosting,
    StreamingEngine,
    load_model,
    read_audio,
    transcribe,
)
from transformers_fastconformer.cli.main import app
from transformers_fastconformer.demonstration import CLIP_PATHS

PHRASES = PhraseBoosting(["nine", "four"], strength=4.0)


@pytest.fixture(scope="module", params=["transducer", "ctc"])
def demo(request: Any) -> tuple[Any, Any]:
    return load_model("demo", request.param)


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    return np.concatenate([np.pad(read_audio(path), (2000, 8000)) for path in CLIP_PATHS]).astype(np.float32)


def test_transcribe_with_beams(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    """Clear digits are the same words in the same places; phrases and a language model change them."""
    plain = transcribe(waveform, model=demo)
    found = transcribe(waveform, model=demo, num_beams=4)
    assert found.text == plain.text
    assert found.timestamps is not None
    assert len(found.timestamps["word"]) == len(plain.text.split())
    texts = ["nine nine nine", "nine four nine four"] * 5
    language_model = NgramLanguageModel.from_text(texts, demo[1].tokenizer, order=3)
    for options in ({"boosting": PHRASES}, {"language_model": language_model, "language_model_weight": 3.0}):
        assert transcribe(waveform, model=demo, num_beams=4, **options).text != plain.text
    with pytest.raises(ValueError, match="num_best=2"):
        transcribe(waveform, model=demo, beam=BeamOptions(num_best=2))


def test_windows_and_pipeline(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    long = np.tile(waveform, 3)
    whole = transcribe(long, model=demo, num_beams=3)
    cut = transcribe(long, model=demo, strategy="chunked", chunk_length_s=4.0, num_beams=3)
    assert cut.strategy == "chunked"
    assert cut.text == whole.text
    recognize = pipeline("automatic-speech-recognition", model=demo[0], processor=demo[1])
    assert recognize({"raw": long, "sampling_rate": 16000}, generate_kwargs={"num_beams": 3})["text"] == whole.text


def test_streams(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    texts = []
    for decoding in (DecodingOptions(), DecodingOptions(num_beams=3)):
        engine = StreamingEngine(*demo, EngineOptions(latency_ms=1500, max_load=1000.0, decoding=decoding))
        stream = engine.open()
        pieces = [engine.step({stream: part})[stream].committed for part in np.array_split(waveform, 9)]
        texts.append("".join(pieces) + engine.finish(stream).committed)
    assert texts[0] == texts[1] != ""


def test_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--num_beams", "4"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == transcribe(CLIP_PATHS[0], model="demo", num_beams=4).text
    result = CliRunner().invoke(app, ["transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--num_beams", "0"])
    assert result.exit_code == 2
