"""Configuration of Sortformer: what is refused, and how many parameters it declares."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer import FastConformerDiarizationConfig, FastConformerForDiarization
from transformers_fastconformer.checkpoints.model_classes import build_without_memory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_speakers": 0}, "num_speakers=0"),
        (
            {"transformer_hidden_size": 190},
            "num_transformer_encoder_attention_heads=8 is not",
        ),
        ({"cache_frames": 15}, "cache_frames=15 is not supported; expected 16 or more, for num_speakers"),
        ({"speaker_dropout": 1.5}, "speaker_dropout=1.5 is not supported; expected a probability"),
        ({"cache_min_probability": 0.0}, "cache_min_probability=0.0 is not supported"),
        ({"queue_frames": -1}, "queue_frames=-1 is not supported; expected 0 or more"),
        ({"transformer_encoder_activation": "silu"}, "transformer_encoder_activation='silu' is not supported"),
        ({"num_transformer_encoder_layers": 10**6}, "num_transformer_encoder_layers=1000000"),
        ({"num_speakers": 10**6, "cache_frames": 10**8}, "num_speakers=1000000|cache_frames"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastConformerDiarizationConfig(**options)


def test_parameters_are_estimated_from_below() -> None:
    config = FastConformerDiarizationConfig(hidden_size=64, num_hidden_layers=2, num_transformer_encoder_layers=3)
    model = build_without_memory(FastConformerForDiarization, config)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 0.8 * count < config.estimate_parameters() <= count
    assert config.has_encoder_projection
    assert not FastConformerDiarizationConfig(hidden_size=192).has_encoder_projection


def test_the_stream_of_the_checkpoint() -> None:
    stream = FastConformerDiarizationConfig(chunk_frames=6, queue_frames=10).speaker_stream()
    assert stream == {
        "chunk_frames": 6,
        "left_context_frames": 1,
        "right_context_frames": 1,
        "queue_frames": 10,
        "update_frames": 188,
        "cache_frames": 188,
    }
