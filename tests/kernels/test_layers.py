"""Fast forms on a CPU: the numbers of the layers, and the layers themselves wherever they are not what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from transformers_fastconformer import FastConformerConfig, FastConformerEncoder
from transformers_fastconformer.kernels import layers as inference_forms
from transformers_fastconformer.kernels.layers import (
    apply_linear,
    can_be_folded,
    convolve_frames,
    has_fused_product,
    takes_frames_first,
)


@pytest.fixture
def no_module_calls(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Linear and convolution layers that were called as modules."""
    called: list[nn.Module] = []
    for kind in (nn.Linear, nn.Conv1d):
        forward = kind.forward

        def record(self: Any, states: torch.Tensor, forward: Any = forward) -> torch.Tensor:
            called.append(self)
            return forward(self, states)

        monkeypatch.setattr(kind, "forward", record)
    return called


def build_linear(bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 40, bias=bias).to(dtype).eval()


@pytest.mark.skipif(not has_fused_product(torch.bfloat16), reason="this build of torch has no product of oneDNN")
@pytest.mark.parametrize("activation", [None, "silu", "swish", "relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_and_its_activation(
    activation: str | None, dtype: torch.dtype, bias: bool, no_module_calls: list[nn.Module]
) -> None:
    layer = build_linear(bias, dtype)
    module = None if activation is None else ACT2FN[activation]
    states = torch.randn(2, 5, 24, dtype=dtype)
    with torch.no_grad():
        found = apply_linear(layer, states, module)
        assert no_module_calls == []
        expected = layer.float()(states.float())
        expected = expected if module is None else module(expected)
    assert found.dtype == dtype
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "obstacle", ["gradients", "training", "hook", "forward", "autocast", "subclass", "dtype of 64 bits"]
)
def test_what_is_not_plain_is_called(obstacle: str, no_module_calls: list[nn.Module]) -> None:
    layer, states = build_linear(), torch.randn(3, 24)
    with torch.no_grad():
        if obstacle == "training":
            layer.train()
        elif obstacle == "hook":
            layer.register_forward_hook(lambda module, inputs, output: 2 * output)
        elif obstacle == "forward":
            layer.forward = lambda states: states[:, :3]  # type: ignore[method-assign]
        elif obstacle == "dtype of 64 bits":
            layer, states = layer.double(), states.double()
        elif obstacle == "subclass":

            class Doubled(nn.Linear):
                def forward(self, states: torch.Tensor) -> torch.Tensor:
                    return 2 * super().forward(states)

            layer = Doubled(24, 40).eval()
    with torch.set_grad_enabled(obstacle == "gradients"), torch.autocast("cpu", enabled=obstacle == "autocast"):
        found = apply_linear(layer, states)
        assert obstacle == "forward" or no_module_calls == [layer]
        torch.testing.assert_close(found, layer(states))
    assert found.requires_grad == (obstacle == "gradients")


@pytest.mark.parametrize("padding", [(4, 4), (8, 0), (1, 3)])
@pytest.mark.parametrize("norm", ["batch", "batch, plain", "layer"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_with_its_norm_folded(padding: tuple[int, int], norm: str, bias: bool) -> None:
    torch.manual_seed(0)
    kernel_size = sum(padding) + 1
    layer = nn.Conv1d(16, 16, kernel_size, groups=16, bias=bias).eval()
    norm_module: nn.Module = nn.LayerNorm(16)
    if norm.startswith("batch"):
        norm_module = nn.BatchNorm1d(16, affine=norm == "batch")
        norm_module.running_mean.normal_()
        norm_module.running_var.uniform_(0.2, 3.0)
        for parameter in norm_module.parameters():
            nn.init.normal_(parameter)
    norm_module.eval()
    states = torch.randn(3, 21, 16)
    with torch.no_grad():
        assert takes_frames_first(layer, states) == has_fused_product(torch.float32)
        assert can_be_folded(norm_module) == norm.startswith("batch")
        found = convolve_frames(layer, states, padding, norm_module if norm.startswith("batch") else None)
        expected = layer(nn.functional.pad(states.transpose(1, 2), padding))
        if norm.startswith("batch"):
            expected = norm_module(expected)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=2e-6, atol=2e-6)


def test_a_norm_in_training_is_not_folded() -> None:
    layer, states = nn.Conv1d(4, 4, 3, groups=4).eval(), torch.randn(1, 5, 4)
    with torch.no_grad():
        assert not can_be_folded(nn.BatchNorm1d(4).train())
        assert not can_be_folded(nn.SyncBatchNorm(4).eval())
        assert not takes_frames_first(layer.train(), states)


def build_encoder() -> FastConformerEncoder:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    encoder = FastConformerEncoder(
        FastConformerConfig(**shape, num_mel_bins=8, subsampling_conv_channels=4)  # type: ignore[arg-type]
    ).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def test_what_inference_mode_made_can_stand_beside_gradients() -> None:
    encoder, features = build_encoder().requires_grad_(False), torch.randn(1, 80, 8)
    with torch.inference_mode():
        expected = encoder(features).last_hidden_state.clone()
    features.requires_grad_()
    output = encoder(features).last_hidden_state
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    output.square().sum().backward()
    assert features.grad is not None
    assert float(features.grad.abs().max()) > 0


@torch.no_grad()
def test_distances_as_keys_follow_their_weight() -> None:
    encoder, features = build_encoder(), torch.randn(1, 80, 8)
    attention = encoder.layers[0].self_attn
    nn.init.normal_(attention.bias_v, std=3.0)
    weight = attention.relative_k_proj.weight
    before = encoder(features).last_hidden_state
    weight.data[:] = 20.0 * torch.randn(16, 16)  # in place, and not counted as a version
    changed = encoder(features).last_hidden_state
    assert float((changed - before).abs().max()) > 1e-4
    encoder.set_attn_implementation("eager")
    torch.testing.assert_close(changed, encoder(features).last_hidden_state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hooks_on_an_activation_are_called() -> None:
    encoder, called = build_encoder(), []
    encoder.layers[0].feed_forward1.activation.register_forward_hook(lambda *_: called.append(True))
    encoder(torch.randn(1, 80, 8))
    assert called == [True]


@torch.no_grad()
def test_meta_tensors_and_vmap_go_the_plain_way() -> None:
    encoder, features = build_encoder(), torch.randn(3, 1, 80, 8)
    mapped = torch.vmap(lambda clip: encoder(clip).last_hidden_state)(features)
    alone = torch.stack([encoder(clip).last_hidden_state for clip in features])
    torch.testing.assert_close(mapped, alone, rtol=1e-4, atol=1e-5)
    assert encoder.to("meta")(features[0].to("meta")).last_hidden_state.shape == (1, 10, 16)


def test_a_dtype_that_the_cpu_lacks_is_left_to_the_layer(
    monkeypatch: pytest.MonkeyPatch, no_module_calls: list[nn.Module]
) -> None:
    monkeypatch.setattr(inference_forms, "has_fused_product", lambda dtype: dtype == torch.float32)
    layer = build_linear(dtype=torch.bfloat16)
    with torch.no_grad():
        apply_linear(layer, torch.randn(2, 24, dtype=torch.bfloat16))
    assert no_module_calls == [layer]
    assert not has_fused_product(torch.float64)
