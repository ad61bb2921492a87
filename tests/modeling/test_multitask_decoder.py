"""Transformer layers of prompted decoders: both places of the norms, and positions as NeMo scales them."""

from __future__ import annotations

import math

import pytest
import torch
from multitask_models import build_multitask

from transformers_fastconformer.modeling.multitask_decoder import scaled_sinusoids


def test_sinusoids_are_divided_by_the_root_of_their_width() -> None:
    table = scaled_sinusoids(5, 6)
    for position in range(5):
        for column in range(6):
            angle = position / 10000 ** (2 * (column // 2) / 6)
            value = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert float(table[position, column]) == pytest.approx(value / math.sqrt(6), abs=1e-6)


@pytest.mark.parametrize("is_pre_norm", [True, False])
def test_layers_are_the_sums_and_norms_of_their_parts(is_pre_norm: bool) -> None:
    model = build_multitask(decoder_pre_norm=is_pre_norm)
    layer = model.decoder.layers[0]
    states, frames = torch.randn(2, 3, 24), torch.randn(2, 5, 24)
    output, _, _ = layer(states, frames, None, None)

    def attend(attention: torch.nn.Module, states: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            projection(input_states).view(2, -1, 2, 12).transpose(1, 2)
            for projection, input_states in (
                (attention.q_proj, states),
                (attention.k_proj, others),
                (attention.v_proj, others),
            )
        )
        context = (query @ key.transpose(-1, -2) / math.sqrt(12)).softmax(dim=-1) @ value
        return attention.o_proj(context.transpose(1, 2).reshape(2, -1, 24))

    norms = (layer.norm_self_attn, layer.norm_cross_attn, layer.norm_feed_forward)
    expected = states
    for norm, part in zip(
        norms,
        (
            lambda x: attend(layer.self_attn, x, x),
            lambda x: attend(layer.cross_attn, x, frames),
            lambda x: layer.feed_forward.linear2(layer.feed_forward.linear1(x).relu()),
        ),
        strict=True,
    ):
        expected = expected + part(norm(expected)) if is_pre_norm else norm(expected + part(expected))
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_attention_with_probabilities_is_the_one_without() -> None:
    attention = build_multitask().decoder.layers[1].cross_attn
    states, frames = torch.randn(2, 3, 24), torch.randn(2, 5, 24)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])[:, None, None]
    without, nothing = attention(states, *attention.project(frames), mask)
    output, probabilities = attention(states, *attention.project(frames), mask, output_attentions=True)
    assert nothing is None
    torch.testing.assert_close(output, without)
    assert (probabilities[1, ..., 2:] == 0).all()
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(2, 2, 3))
