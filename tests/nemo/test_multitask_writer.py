"""Canary's own sections and tensors as NeMo has them, read back by the tables of the conversion."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from transformers_fastconformer import FastConformerMultitaskConfig
from transformers_fastconformer.modeling.multitask_decoder import scaled_sinusoids
from transformers_fastconformer.nemo.multitask_writer import (
    added_tensors,
    multitask_fillers,
    multitask_sections,
    name_tokenizer_class,
)
from transformers_fastconformer.nemo.sections.prompt_defaults import read_prompt_defaults
from transformers_fastconformer.nemo.weight_map import POSITION_TABLE, TOKEN_TYPES

SMALL: dict[str, Any] = {"decoder_hidden_size": 8, "num_decoder_attention_heads": 2, "decoder_max_positions": 5}


@pytest.mark.parametrize(
    ("prompt_format", "defaults"),
    [
        ("canary", {"source_lang": "de", "target_lang": "en", "task": "translate", "pnc": False}),
        ("canary", {"task": "transcribe"}),
        ("canary2", {"source_lang": "en", "pnc": True, "itn": False, "timestamps": True, "diarize": False}),
        ("canary2", {"emotion": "happy"}),
        ("canary2", None),
    ],
)
def test_prompt_defaults_are_read_back(prompt_format: str, defaults: dict[str, Any] | None) -> None:
    config = FastConformerMultitaskConfig(**SMALL, prompt_format=prompt_format, prompt_defaults=defaults)
    processor: Any = SimpleNamespace(learns_prompt=False)
    written = multitask_sections(config, processor)
    assert read_prompt_defaults(prompt_format, written["prompt_defaults"]) == (defaults or {})
    assert written["use_loss_mask_for_prompt"] is True


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensors_that_nemo_has_besides(dtype: str) -> None:
    config = FastConformerMultitaskConfig(**SMALL, decoder_positions_dtype=dtype)
    written = multitask_fillers(config)
    assert added_tensors(config, written).keys() == {POSITION_TABLE}
    del written["transf_decoder"]["config_dict"]["num_token_types"]  # NeMo has two then
    found = added_tensors(config, written)
    assert torch.equal(found[POSITION_TABLE], scaled_sinusoids(5, 8).to(getattr(torch, dtype)))
    assert found[TOKEN_TYPES].shape == (2, 8)
    learned = FastConformerMultitaskConfig(**SMALL, decoder_learned_positions=True)
    assert POSITION_TABLE not in added_tensors(learned, written)


def test_tokenizers_get_nemos_class_unless_they_name_one() -> None:
    assert name_tokenizer_class({"type": "bpe"}, False)["custom_tokenizer"]["_target_"].endswith("CanaryBPETokenizer")
    aggregate = name_tokenizer_class({"type": "agg"}, True)["custom_tokenizer"]
    assert aggregate["_target_"].endswith("canary_tokenizer.CanaryTokenizer")
    named = {"type": "agg", "custom_tokenizer": {"_target_": "a.AggregateTokenizer"}}
    assert name_tokenizer_class(named, True) == named
