"""Configuration of self-supervised pre-training: what is refused, and how many parameters it declares."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer import FastConformerForPreTraining, FastConformerPreTrainingConfig
from transformers_fastconformer.checkpoints.model_classes import build_without_memory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codebooks": 0}, "num_codebooks=0"),
        ({"codebook_size": 0}, "codebook_size=0"),
        ({"frames_per_token": 4}, "frames_per_token=4 is not supported; expected 8, so that a token"),
        ({"masks_after_subsampling": True}, "frames_per_token=8 is not supported; expected 1, so that a token"),
        ({"mask_probability": 1.5}, "mask_probability=1.5 is not supported; expected a probability"),
        ({"mask_threshold": 1.0}, "mask_threshold=1.0 is not supported"),
        ({"mask_block_frames": 0}, "mask_block_frames=0"),
        ({"codebook_size": 10**9}, "they make about"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastConformerPreTrainingConfig(**options)


def test_parameters_are_estimated_from_below() -> None:
    config = FastConformerPreTrainingConfig(hidden_size=64, num_hidden_layers=2, codebook_size=512)
    model = build_without_memory(FastConformerForPreTraining, config)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 0.8 * count < config.estimate_parameters() <= count
    assert config.token_frame_size == 80
    after = FastConformerPreTrainingConfig(hidden_size=64, masks_after_subsampling=True, frames_per_token=1)
    assert after.token_frame_size == 64
