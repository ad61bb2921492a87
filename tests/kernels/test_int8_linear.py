"""Products in 8 bits: those of the rounded numbers, frame by frame, and weights that follow their layer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from transformers_fastconformer.kernels.int8_linear import (
    MAX_EXACT_SUM,
    FloatProduct,
    Int8Linear,
    Int8Weight,
    PackedProduct,
    has_int8_products,
    int8_weight_of,
    multiply_rounded,
    use_int8,
    uses_int8,
)
from transformers_fastconformer.kernels.layers import apply_linear, apply_linears


def test_an_8_bit_product_is_that_of_rounded_numbers() -> None:
    torch.manual_seed(0)
    weight, states, bias = torch.randn(40, 24), torch.randn(2, 7, 24), torch.randn(40)
    states[0, 0] *= 1000.0  # a frame with a scale of its own
    found = Int8Weight(weight).multiply(states, bias)
    weight_scale = weight.abs().amax(1, keepdim=True) / 127
    state_scale = states.abs().amax(-1, keepdim=True) / 127
    rounded = (states / state_scale).round() * state_scale
    expected = rounded.double() @ ((weight / weight_scale).round() * weight_scale).double().T + bias
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("inputs", [24, 1024, 4096])
@pytest.mark.parametrize("largest", [True, False])
def test_sums_are_exact_on_every_cpu(inputs: int, largest: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-127, 128, (5, inputs), generator=generator).float()
    weight = torch.randint(-127, 128, (64, inputs), dtype=torch.int8, generator=generator)
    if largest:  # odd sums that float32 does not hold
        rows[:2], weight[:9] = 127.0, 127
        rows[1, 0], weight[3, 0] = 126.0, -126
    scale = torch.rand(64, generator=generator) + 0.5
    sums = (rows.double() @ weight.double().T).float()
    assert (float(sums.abs().max()) > MAX_EXACT_SUM) == (largest and inputs == 4096)
    assert torch.equal(FloatProduct(weight, scale)(rows), sums * scale)
    if has_int8_products():
        assert torch.equal(PackedProduct(weight, scale)(rows), sums * scale)


def test_an_8_bit_result_of_a_frame_depends_on_no_other() -> None:
    torch.manual_seed(0)
    product, states = Int8Weight(torch.randn(8, 24)), torch.randn(6, 24)
    together = product.multiply(states, None)
    alone = torch.cat([product.multiply(row[None], None) for row in states])
    assert torch.equal(together, alone)
    assert torch.equal(product.multiply(torch.zeros(2, 24), None), torch.zeros(2, 8))


def test_products_of_the_same_states_are_those_of_each_weight() -> None:
    torch.manual_seed(0)
    weights, biases = [Int8Weight(torch.randn(8, 24)), Int8Weight(torch.randn(40, 24))], [torch.randn(8), None]
    states = torch.randn(2, 3, 24)
    together = Int8Weight.multiply_all(weights, states, biases)
    for weight, bias, found in zip(weights, biases, together, strict=True):
        assert torch.equal(found, weight.multiply(states, bias))


@pytest.mark.parametrize("in_8_bits", [(), (0, 1, 2), (0, 2), "stored"])
@torch.no_grad()
def test_layers_of_the_same_states_compute_as_each_does(in_8_bits: tuple[int, ...] | str) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(24, size, bias=size > 8).eval() for size in (8, 16, 24)]
    for index in () if in_8_bits == "stored" else in_8_bits:
        use_int8(layers[index], True)  # type: ignore[arg-type]
    if in_8_bits == "stored":
        layers = [Int8Linear.from_linear(layer) for layer in layers]  # type: ignore[arg-type]
    for states in (torch.randn(2, 3, 24), torch.randn(0, 24)):
        found = apply_linears(layers, states)
        assert all(torch.equal(apply_linear(layer, states), each) for layer, each in zip(layers, found, strict=True))


def test_8_bit_weights_follow_their_layer() -> None:
    torch.manual_seed(0)
    layer, states = nn.Linear(24, 40).eval(), torch.randn(3, 24)
    with torch.no_grad():
        exact = apply_linear(layer, states)
        use_int8(layer, True)
        rounded = apply_linear(layer, states)
        assert 0 < float((rounded - exact).abs().max()) < 0.05
        assert int8_weight_of(layer) is int8_weight_of(layer)
        layer.weight.mul_(2.0)
        layer.bias.mul_(2.0)
        torch.testing.assert_close(apply_linear(layer, states), 2 * rounded)
        layer.weight.data.mul_(0.5)  # not counted as a version
        layer.bias.mul_(0.5)
        torch.testing.assert_close(apply_linear(layer, states), rounded)
        use_int8(layer, False)
        assert torch.equal(apply_linear(layer, states), exact)
    assert not uses_int8(layer)


def stored_layer(dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, Int8Linear]:
    torch.manual_seed(0)
    layer = nn.Linear(64, 128).eval().to(dtype)
    return layer, Int8Linear.from_linear(layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_stored_layer_computes_the_bits_of_a_rounded_one(dtype: torch.dtype) -> None:
    layer, stored = stored_layer(dtype)
    states = torch.randn(2, 5, 64, dtype=dtype)
    use_int8(layer, True)
    expected = apply_linear(layer, states)
    assert torch.equal(stored(states), expected)
    assert torch.equal(apply_linear(stored, states), expected)
    activated = apply_linear(stored, states, nn.SiLU())
    assert torch.equal(activated, apply_linear(layer, states, nn.SiLU()))
    plain = multiply_rounded(states, stored.weight_int8, stored.weight_scale, stored.bias)
    assert torch.equal(plain, expected)
    exported = torch.export.export(stored, (states,), strict=False).module()
    assert torch.equal(exported(states), expected)
    assert stored(states[:, :0]).shape == (2, 0, 128)
    for twin in (copy.deepcopy(stored), pickle.loads(pickle.dumps(stored))):
        assert torch.equal(twin(states), expected)
        assert twin._packed is not stored._packed


@torch.no_grad()
def test_a_stored_layer_follows_its_buffers_and_keeps_their_types() -> None:
    _, stored = stored_layer()
    states = torch.randn(3, 64)
    expected = stored(states)
    other = Int8Linear(64, 128, has_bias=True).eval()
    assert float(other(states).abs().max()) == 0.0
    other.load_state_dict(stored.state_dict())
    assert torch.equal(other(states), expected)
    assert list(stored.state_dict()) == ["bias", "weight_int8", "weight_scale"]
    stored.to(torch.bfloat16)
    assert (stored.weight_int8.dtype, stored.weight_scale.dtype) == (torch.int8, torch.float32)
    assert stored.bias is not None
    assert stored.bias.dtype == torch.bfloat16
    floats = other.to_linear(torch.float32)
    torch.testing.assert_close(floats(states), expected, rtol=0.05, atol=0.05)
    assert torch.equal(floats.weight, other.weight_int8 * other.weight_scale[:, None])


def test_a_stored_layer_refuses_gradients_and_other_devices() -> None:
    _, stored = stored_layer()
    states = torch.randn(3, 64)
    with pytest.raises(ValueError, match="cannot be trained"):
        stored(states.clone().requires_grad_())
    with pytest.raises(ValueError, match="cannot be trained"):
        stored.train()(states)
    assert stored.eval().to("meta")(states.to("meta")).shape == (3, 128)
