"""The package onnx-asr on what is exported for it, and what it cannot express."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer import export_onnx, load_model, read_audio, transcribe
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.export.onnx_asr import BLANK, check_expressible, vocabulary_lines


def test_demonstration_can_be_expressed(demonstration: tuple[Any, Any]) -> None:
    model, processor = demonstration
    check_expressible(model, processor)
    lines = vocabulary_lines(processor.tokenizer)
    assert lines[-1] == BLANK
    assert len(lines) == model.config.vocab_size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("normalize", None),
        ("preemphasis", None),
        ("hop_length", 80),
        ("window", "hamming"),
        ("log_zero_guard_value", 1e-5),
    ],
)
def test_other_features_are_refused(demonstration: tuple[Any, Any], name: str, value: Any) -> None:
    model, processor = demonstration
    other = copy.copy(processor)
    other.feature_extractor = copy.deepcopy(processor.feature_extractor)
    setattr(other.feature_extractor, name, value)
    with pytest.raises(ValueError, match=rf"feature_extractor\.{name}=.* is not supported; expected .*onnx-asr"):
        check_expressible(model, other)


@pytest.mark.parametrize(
    ("name", "value"), [("durations", [0, 2, 4, 8]), ("decoder_type", "stateless"), ("num_prompts", 2)]
)
def test_other_transducers_are_refused(demonstration: tuple[Any, Any], name: str, value: Any) -> None:
    model, processor = demonstration
    changed = copy.copy(model)
    changed.config = copy.deepcopy(model.config)
    setattr(changed.config, name, value)
    with pytest.raises(ValueError, match=rf"{name}=.* is not supported; expected"):
        check_expressible(changed, processor)


def test_streaming_demonstration_is_refused() -> None:
    """Its features are not normalised, which onnx-asr cannot be told."""
    model, processor = load_model("demo-streaming", device="cpu", dtype="float32")
    with pytest.raises(ValueError, match=r"feature_extractor\.normalize=None"):
        check_expressible(model, processor)


class Vocabulary:
    """A tokenizer, as far as it is asked."""

    def __init__(self, tokens: list[str], text_rule: str = "character", byte_tokens: bool = False) -> None:
        self.tokens, self.text_rule, self.byte_tokens = tokens, text_rule, byte_tokens
        self.blank_token_id = len(tokens)

    def vocabulary_tokens(self, ids: Any) -> list[str]:
        return [self.tokens[number] for number in ids]


def test_space_of_a_character_vocabulary_is_the_word_mark() -> None:
    assert vocabulary_lines(Vocabulary([" ", "a", "é"])) == ["▁", "a", "é", BLANK]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary(["a b"], "sentencepiece"),
        Vocabulary(["a\n"]),
        Vocabulary([BLANK]),
        Vocabulary(["▁", " "]),
        Vocabulary(["a"], "wordpiece"),
        Vocabulary(["a"], "sentencepiece", byte_tokens=True),
    ],
)
def test_other_vocabularies_are_refused(vocabulary: Any) -> None:
    with pytest.raises(ValueError, match="is not supported; expected"):
        vocabulary_lines(vocabulary)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_text_is_that_of_this_package(head: str, tmp_path: Path, speech_dir: Path) -> None:
    """From audio, clip by clip and in a batch: the carried clips, and real digits put end to end."""
    onnx_asr = pytest.importorskip("onnx_asr")
    pair = load_model("demo", head, "cpu", "float32")
    result = export_onnx(pair, tmp_path / "out", source="demo")
    assert max(result.differences.values()) < 1e-4
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    theirs = onnx_asr.load_model(settings["model_type"], tmp_path / "out")
    clips = [read_audio(path, 16000) for path in CLIP_PATHS]
    paths = sorted((speech_dir / "digits").rglob("*.flac"))
    generator = np.random.default_rng(5)
    for _ in range(20):
        chosen = generator.choice(len(paths), size=generator.integers(1, 8))
        clips.append(np.concatenate([read_audio(paths[number], 16000) for number in chosen]))
    clips = [np.asarray(clip, dtype=np.float32) for clip in clips]
    expected = [transcript.text for transcript in transcribe(list(clips), pair)]
    assert any(expected)
    assert [theirs.recognize(clip) for clip in clips] == expected
    assert theirs.recognize(clips) == expected
