"""Languages of models that are not told one, through every door: only their letters are written."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
import torch
from models import BLANK, build_model
from transformers import pipeline

from transformers_fastconformer import (
    EngineOptions,
    FastConformerFeatureExtractor,
    FastConformerProcessor,
    StreamingEngine,
    compile_languages,
    load_model,
    transcribe,
    transcribe_waveforms,
)
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.nemo.tokenizers import character_tokenizer

LABELS = [" ", *"abäößüжф", "9"]


@pytest.fixture(scope="module", params=["ctc", "rnnt", "tdt"])
def worker(request: Any) -> tuple[Any, FastConformerProcessor]:
    extractor = FastConformerFeatureExtractor(feature_size=8)
    assert len(LABELS) == BLANK
    return build_model(request.param), FastConformerProcessor(extractor, character_tokenizer(LABELS), 8)


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(16000 * seconds).astype(np.float32) for seconds in (2, 3, 1)]


def letters(text: str) -> set[str]:
    return {character for character in text if unicodedata.category(character)[0] == "L"}


@pytest.mark.parametrize(("language", "expected"), [("de", "abäöüß"), ("en", "ab")])
@pytest.mark.parametrize("num_beams", [None, 3])
def test_only_letters_of_the_language_are_written(
    worker: Any, waveforms: list[np.ndarray], num_beams: Any, language: str, expected: str
) -> None:
    model, processor = worker
    free = transcribe_waveforms(model, processor, waveforms, num_beams=num_beams)
    assert not letters("".join(item.text for item in free)) <= set("ab")
    found = transcribe_waveforms(model, processor, waveforms, language=language, num_beams=num_beams)
    assert "".join(item.text for item in found)
    assert letters("".join(item.text for item in found)) <= set(expected)
    both = transcribe_waveforms(model, processor, waveforms, languages=[language, "en"], num_beams=num_beams)
    assert [item.text for item in both] == [item.text for item in found]


def test_generate_takes_languages_as_tokens_and_one_for_each_clip(worker: Any) -> None:
    model, processor = worker
    features = torch.randn(2, 160, 8, generator=torch.Generator().manual_seed(1))
    tokenizer = processor.tokenizer
    each = model.generate(features, languages=[compile_languages(code, tokenizer) for code in ("en", "de")])
    for row, code in enumerate(("en", "de")):
        alone = model.generate(features[row : row + 1], languages=compile_languages(code, tokenizer))
        assert tokenizer.decode(each[row], skip_special_tokens=True) == tokenizer.decode(
            alone[0], skip_special_tokens=True
        )
    with pytest.raises(ValueError, match="not yet made of tokens; expected compile_languages"):
        model.generate(features, languages=["de"])
    with pytest.raises(ValueError, match="no language prompts"):
        model.generate(features, language="de")


def test_streams_and_pipeline(worker: Any, waveforms: list[np.ndarray]) -> None:
    model, processor = worker
    engine = StreamingEngine(model, processor, EngineOptions(decoding=DecodingOptions(language="de")))
    stream = engine.open()
    text = "".join(update.committed for update in engine.step({stream: waveforms[1]}).values())
    text += engine.finish(stream).committed
    assert letters(text)
    assert letters(text) <= set("abäöüß")
    asr = pipeline("automatic-speech-recognition", model=model, processor=processor)
    given = {"raw": waveforms[1], "sampling_rate": 16000}
    expected = transcribe(waveforms[1], model=worker, language="de").text
    assert asr(dict(given), generate_kwargs={"language": "de"})["text"] == expected


def test_the_demonstration_is_english() -> None:
    demo = load_model("demo")
    plain = transcribe(CLIP_PATHS[0], model=demo)
    assert transcribe(CLIP_PATHS[0], model=demo, language="en").text == plain.text
    with pytest.raises(ValueError, match=r"language='pl' cannot be written .* expected one of \['en'\]"):
        transcribe(CLIP_PATHS[0], model=demo, language="pl")
