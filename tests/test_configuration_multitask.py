"""Configuration of prompted decoders: what is accepted, and NeMo's limit of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask_models import SMALL

from transformers_fastconformer import FastConformerConfig, FastConformerMultitaskConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"num_tokens": 41}, "num_tokens=41"),
        ({"num_decoder_attention_heads": 5}, "num_decoder_attention_heads=5"),
        ({"num_transformer_encoder_attention_heads": 5}, "num_transformer_encoder_attention_heads=5"),
        ({"decoder_hidden_size": 0}, "decoder_hidden_size=0"),
        ({"decoder_activation": "silu"}, "decoder_activation='silu'"),
        ({"decoder_attention_dropout": 1.5}, "decoder_attention_dropout=1.5"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ({"max_generation_delta": -2}, "max_generation_delta=-2"),
        ({"decoding_strategy": "tsd"}, "decoding_strategy='tsd'"),
        ({"decoder_positions_dtype": "int8"}, "decoder_positions_dtype='int8'"),
        ({"prompt_format": "canary3"}, "prompt_format='canary3'"),
        ({"eos_token_id": 37}, "eos_token_id=37"),
        ({"prompt_token_ids": {"<|en|>": 40}}, r"prompt_token_ids\['<\|en\|>'\]=40"),
        ({"num_decoder_layers": 65}, "num_decoder_layers=65"),
    ],
)
def test_values_that_no_checkpoint_has_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastConformerMultitaskConfig(**{**SMALL, **options})


def test_a_decoder_that_no_machine_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="weights"):
        FastConformerMultitaskConfig(decoder_hidden_size=2**14, num_decoder_layers=64, decoder_intermediate_size=2**16)


def test_the_encoder_reads_its_part(tmp_path: Any) -> None:
    config = FastConformerMultitaskConfig(**SMALL, prompt_token_ids={"<|en|>": 7}, prompt_defaults={"pnc": "yes"})
    config.save_pretrained(tmp_path)
    again = FastConformerMultitaskConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    encoder = FastConformerConfig.from_pretrained(tmp_path)
    assert encoder.hidden_size == 32
    assert not hasattr(encoder, "num_decoder_layers")


@pytest.mark.parametrize(
    ("strategy", "delta", "expected"),
    [("greedy", 4, [10, 0, 28]), ("beam", 4, [11, 1, 29]), ("greedy", -1, [28, 28, 28]), ("beam", -1, [29, 29, 29])],
)
def test_tokens_are_limited_by_the_frames_of_each_clip(strategy: str, delta: int, expected: list[int]) -> None:
    config = FastConformerMultitaskConfig(**{**SMALL, "decoding_strategy": strategy, "max_generation_delta": delta})
    assert config.limit_new_tokens(torch.tensor([10, 0, 99]), 4).tolist() == expected


def test_padding_ends_a_text_only_in_the_beam_search_of_nemo() -> None:
    assert FastConformerMultitaskConfig(**SMALL).end_token_ids == (4, 5)
    assert FastConformerMultitaskConfig(**{**SMALL, "decoding_strategy": "greedy"}).end_token_ids == (4,)
