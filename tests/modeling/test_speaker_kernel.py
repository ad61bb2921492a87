"""The networks of a multi-talker model, without a speaker to follow."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer import FastConformerConfig
from transformers_fastconformer.modeling.speaker_kernel import FastConformerSpeakerKernel


@pytest.mark.parametrize("has_background", [False, True])
@torch.no_grad()
def test_everybody_is_the_speaker_and_nobody_the_background(has_background: bool) -> None:
    config = FastConformerConfig(
        hidden_size=8, num_attention_heads=2, has_speaker_kernel=True, has_background_kernel=has_background
    )
    kernel = FastConformerSpeakerKernel(config).eval()
    states = torch.randn(2, 5, 8)
    expected = states + kernel.speaker(states)
    if kernel.background is not None:
        first, _, _, second = kernel.background
        expected = expected + second(torch.relu(first.bias))
    assert (kernel.background is not None) == has_background
    torch.testing.assert_close(kernel(states), expected)
