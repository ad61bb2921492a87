"""Layers of a transformer over frames: both places of the norms, and padding."""

from __future__ import annotations

import math

import pytest
import torch

from transformers_fastconformer import FastConformerDiarizationConfig
from transformers_fastconformer.modeling.transformer import FastConformerTransformerEncoder, LayerShape


@pytest.mark.parametrize("is_pre_norm", [True, False])
def test_layers_are_the_sums_and_norms_of_their_parts(is_pre_norm: bool) -> None:
    torch.manual_seed(0)
    shape = LayerShape(24, 2, 32, "relu", is_pre_norm, 0.0, 0.0, 0.0)
    encoder = FastConformerTransformerEncoder(FastConformerDiarizationConfig(), shape, 2, True).eval()
    assert (encoder.norm is not None) == is_pre_norm
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    states, mask = torch.randn(2, 5, 24), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None]
    expected = states
    for layer in encoder.layers:
        attention = layer.self_attn

        def attend(states: torch.Tensor, attention: torch.nn.Module = attention) -> torch.Tensor:
            query, key, value = (
                linear(states).view(2, 5, 2, 12).transpose(1, 2)
                for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            scores = (query @ key.transpose(-1, -2) / math.sqrt(12)).masked_fill(~mask, -math.inf)
            return attention.o_proj((scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(2, 5, 24))

        def feed(states: torch.Tensor, part: torch.nn.Module = layer.feed_forward) -> torch.Tensor:
            return part.linear2(part.linear1(states).relu())

        for norm, part in ((layer.norm_self_attn, attend), (layer.norm_feed_forward, feed)):
            expected = expected + part(norm(expected)) if is_pre_norm else norm(expected + part(expected))
    if encoder.norm is not None:
        expected = encoder.norm(expected)
    torch.testing.assert_close(encoder(states, mask), expected, rtol=1e-4, atol=1e-5)
