"""Models for programs of one's own: what has graphs, and what is written next to them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from transformers_fastconformer import FastConformerTDTConfig, load_model
from transformers_fastconformer.export import plain


@pytest.fixture(scope="module")
def demonstration() -> tuple[Any, Any]:
    return load_model("demo", device="cpu", dtype="float32")


def test_settings_are_read_back(demonstration: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = demonstration
    plain.check_expressible(model, processor)
    plain.write_settings(tmp_path, model, processor)
    assert FastConformerTDTConfig.from_pretrained(tmp_path).durations == model.config.durations
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


@pytest.mark.parametrize(("name", "value"), [("decoder_type", "stateless"), ("num_prompts", 2)])
def test_models_without_graphs_are_refused(demonstration: tuple[Any, Any], name: str, value: Any) -> None:
    model, processor = demonstration
    changed = copy.copy(model)
    changed.config = copy.deepcopy(model.config)
    setattr(changed.config, name, value)
    with pytest.raises(ValueError, match=rf"{name}=.* is not supported; expected"):
        plain.check_expressible(changed, processor)


def test_names_of_the_graphs(demonstration: tuple[Any, Any]) -> None:
    assert set(plain.graph_parts(demonstration[0])) == {"encoder.onnx", "decoder_joint.onnx"}
