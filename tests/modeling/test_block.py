"""Blocks: stochastic depth, and a convolution in both of its forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import build_config, build_model, make_features

from transformers_fastconformer.configuration_checks import CONV_NORM_TYPES
from transformers_fastconformer.modeling.block import layerdrop_probability


def assert_near(ours: torch.Tensor, truth: torch.Tensor, share: float = 5e-6) -> None:
    """Largest difference at most `share` of the largest magnitude of the truth."""
    assert ours.shape == truth.shape
    assert torch.isfinite(ours).all()
    if truth.numel():
        assert float((ours - truth).abs().max()) <= share * float(truth.abs().max())


@pytest.mark.parametrize(
    ("values", "probabilities"),
    [
        ({}, [0.0, 0.0, 0.0, 0.0]),
        ({"layerdrop": 0.3}, [0.0, 0.1, 0.2, 0.3]),
        ({"layerdrop": 0.3, "layerdrop_start_layer": 2}, [0.0, 0.0, 0.15, 0.3]),
        ({"layerdrop": 0.3, "layerdrop_start_layer": 4}, [0.0, 0.0, 0.0, 0.0]),
        ({"layerdrop": 0.3, "layerdrop_mode": "uniform"}, [0.0, 0.3, 0.3, 0.3]),
    ],
)
def test_stochastic_depth(values, probabilities):
    config = build_config("encoder", num_hidden_layers=4, **values)
    assert [layerdrop_probability(config, index) for index in range(4)] == pytest.approx(probabilities)


def test_stochastic_depth_keeps_the_expectation():
    values = {"dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0, "dropout_pre_encoder": 0.0}
    model = build_model("encoder", layerdrop=0.5, conv_norm_type="layer_norm", **values)
    features = make_features([20])
    torch.manual_seed(0)
    with torch.no_grad():
        first_block = model(features, output_hidden_states=True).hidden_states[1]
        whole = model(features).last_hidden_state
        model.train()
        drawn = [model(features).last_hidden_state for _ in range(40)]
    # Near, not equal: in evaluation mode the layers have other forms.
    dropped = [output for output in drawn if torch.allclose(output, first_block, atol=1e-5)]
    kept = [output for output in drawn if not torch.allclose(output, first_block, atol=1e-5)]
    assert min(len(dropped), len(kept)) > 8
    assert_near((dropped[0] + kept[0]) / 2, whole, 1e-5)


@pytest.mark.parametrize("padding", [[2, 2], [4, 0], [1, 3]])
@pytest.mark.parametrize("name", CONV_NORM_TYPES)
@torch.no_grad()
def test_both_forms_of_the_convolution_are_equal(name: str, padding: list[int]) -> None:
    options: dict[str, Any] = {"conv_norm_type": name, "conv_context": padding, "conv_norm_groups": 4}
    module = build_model("encoder", **options).layers[0].conv
    states, norm_frames = torch.randn(2, 9, 16), torch.tensor([10, 5])
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    fast = module(states, mask, norm_frames)
    module.config._attn_implementation = "eager"
    assert_near(fast, module(states, mask, norm_frames))
