"""Products of few rows: the numbers of a linear layer, for every number of rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from transformers_fastconformer.kernels import few_rows, layers
from transformers_fastconformer.kernels.few_rows import (
    convolve_few_frames,
    has_few_rows,
    multiply_few_rows,
    preferring_few_rows,
)

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch was built without MKL")


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows", range(1, 17))
def test_few_rows_are_those_of_a_linear_layer(num_rows: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    weight = torch.randn(96, 33, generator=generator)
    bias = torch.randn(96, generator=generator) if has_bias else None
    states = torch.randn(num_rows, 33, generator=generator)
    exact = functional.linear(states.double(), weight.double(), None if bias is None else bias.double())
    output = multiply_few_rows(weight, states, bias)
    assert output.is_contiguous()
    assert (output.double() - exact).abs().max() <= 1e-6 * exact.abs().max()
    shaped = multiply_few_rows(weight, states[:, None], bias)
    assert shaped.shape == (num_rows, 1, 96)
    assert torch.equal(shaped[:, 0], output)


def test_a_row_does_not_depend_on_the_values_of_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, states = torch.randn(64, 48, generator=generator), torch.randn(7, 48, generator=generator)
    expected = multiply_few_rows(weight, states)
    states[3] = torch.nan
    output = multiply_few_rows(weight, states)
    assert output[3].isnan().all()
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(output[others], expected[others])


@pytest.mark.parametrize(
    ("shape", "states", "is_fast"),
    [
        ((64, 32), torch.zeros(1, 1, 32), False),
        ((64, 32), torch.zeros(2, 1, 32), True),
        ((32, 64), torch.zeros(1, 2, 64), True),
        ((32, 64), torch.zeros(4, 4, 64), True),
        ((32, 64), torch.zeros(17, 64), False),
        ((32, 64), torch.zeros(0, 64), False),
        ((32, 64), torch.zeros(2, 64, dtype=torch.bfloat16), False),
    ],
)
def test_when_it_is_the_fast_form(shape: tuple[int, int], states: torch.Tensor, is_fast: bool) -> None:
    weight = torch.zeros(shape, dtype=states.dtype)
    assert not has_few_rows(weight, states)
    with preferring_few_rows():
        assert has_few_rows(weight, states) is is_fast
    assert not has_few_rows(weight, states)


@pytest.mark.parametrize("kernel", [1, 4, 9])
@pytest.mark.parametrize("num_frames", [1, 3, 8])
def test_few_frames_are_those_of_a_convolution(num_frames: int, kernel: int) -> None:
    generator = torch.Generator().manual_seed(kernel)
    convolution = nn.Conv1d(6, 6, kernel, groups=6).double()
    states = torch.randn(2, num_frames + kernel - 1, 6, generator=generator)
    exact = convolution(states.double().transpose(1, 2)).transpose(1, 2)
    layer = convolution.float().eval()
    with torch.no_grad():
        for bias in (layer.bias, None):
            output = convolve_few_frames(layer.weight[:, 0], bias, states)
            expected = exact if bias is not None else exact - layer.bias.double()
            assert (output.double() - expected).abs().max() <= 1e-6 * exact.abs().max()
        with preferring_few_rows():
            preferred = layers.convolve_frames(layer, states, (0, 0))
        assert torch.equal(preferred, convolve_few_frames(layer.weight[:, 0], layer.bias, states))


def test_linear_layers_go_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def multiply(*arguments: torch.Tensor | None) -> torch.Tensor:
        assert isinstance(arguments[1], torch.Tensor)
        shapes.append(tuple(arguments[1].shape))
        return few_rows.multiply_few_rows(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(layers, "multiply_few_rows", multiply)
    layer = nn.Linear(16, 64).eval()
    states = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), preferring_few_rows():
        for activation in (None, nn.SiLU(), nn.ReLU(), nn.GELU()):
            expected = layer(states) if activation is None else activation(layer(states))
            assert torch.allclose(layers.apply_linear(layer, states, activation), expected, atol=1e-6)
        assert shapes == [(1, 3, 16)] * 4
        layers.apply_linear(layer, torch.zeros(1, 20, 16))
        assert len(shapes) == 4
    with preferring_few_rows():
        layers.apply_linear(layer, states)  # with gradients
    with torch.no_grad():
        layers.apply_linear(layer, states)  # not of a live stream
    assert len(shapes) == 4
