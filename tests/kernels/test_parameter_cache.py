"""The cache of values derived from parameters: kept, made anew when the parameters have changed, dropped."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from transformers_fastconformer.kernels.parameter_cache import ParameterCache, fingerprint_parameter


class Derivation:
    """Makes a value of its own in each call."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


def test_a_value_is_made_once() -> None:
    cache: ParameterCache[int] = ParameterCache()
    first, second, derive = nn.Linear(3, 2), nn.Linear(3, 2), Derivation()
    assert [cache.get(first, first.parameters(), derive) for _ in range(3)] == [1, 1, 1]
    assert cache.get(second, second.parameters(), derive) == 2
    assert cache.get(first, first.parameters(), derive) == 1


@pytest.mark.parametrize("change", ["in place", "through data", "another tensor", "another dtype"])
def test_a_changed_parameter_makes_it_anew(change: str) -> None:
    cache: ParameterCache[int] = ParameterCache()
    layer, derive = nn.Linear(3, 2), Derivation()
    cache.get(layer, layer.parameters(), derive)
    with torch.no_grad():
        if change == "in place":
            layer.bias.add_(1.0)
        elif change == "through data":  # not counted as a version
            layer.weight.data[1, 2] = 7.0
        elif change == "another tensor":
            layer.weight = nn.Parameter(layer.weight.clone())
        else:
            layer.bfloat16()
    assert cache.get(layer, layer.parameters(), derive) == 2
    assert cache.get(layer, layer.parameters(), derive) == 2


@pytest.mark.parametrize(("inputs", "outputs"), [(1024, 512), (1024, 4096), (4096, 1024), (512, 2048)])
def test_changes_of_parts_of_a_weight_that_do_not_count_are_seen(inputs: int, outputs: int) -> None:
    cache: ParameterCache[int] = ParameterCache()
    layer, derive = nn.Linear(inputs, outputs), Derivation()
    weight = layer.weight.data
    parts = [weight[:, inputs // 2 :], weight[:, : inputs // 16], weight[outputs // 2 :], weight[: outputs // 16]]
    cache.get(layer, [layer.weight], derive)
    for count, part in enumerate(parts, start=2):
        part += 0.1
        assert cache.get(layer, [layer.weight], derive) == count
    weight.copy_(weight.flip(0))  # whose sum is the same
    assert cache.get(layer, [layer.weight], derive) == len(parts) + 2


def test_a_value_can_be_dropped() -> None:
    cache: ParameterCache[int] = ParameterCache()
    layer, derive = nn.Linear(3, 2), Derivation()
    cache.drop(layer)
    cache.get(layer, layer.parameters(), derive)
    cache.drop(layer)
    assert cache.get(layer, layer.parameters(), derive) == 2


def test_a_call_without_reading_values_sees_only_counted_changes() -> None:
    cache: ParameterCache[float] = ParameterCache()
    layer = nn.Linear(3, 2)

    def look(reads_values: bool) -> float:
        return cache.get(layer, layer.parameters(), lambda: layer.weight[0, 0].item(), reads_values)

    first = look(False)
    assert first == layer.weight[0, 0].item()
    layer.weight.data.add_(1.0)  # does not count
    assert look(False) == first
    assert look(True) == layer.weight[0, 0].item() != first
    with torch.no_grad():
        layer.weight.add_(1.0)
    assert look(False) == layer.weight[0, 0].item()


def test_a_module_is_not_kept_alive() -> None:
    cache: ParameterCache[torch.Tensor] = ParameterCache()
    layer = nn.Linear(3, 2)
    value = cache.get(layer, layer.parameters(), lambda: torch.zeros(1))
    gone, value_gone = weakref.ref(layer), weakref.ref(value)
    del layer, value
    gc.collect()
    assert gone() is None
    assert value_gone() is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_fingerprints_are_equal_for_equal_values_with_nan_too(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.randn(5, 4).to(dtype))
    parameter.data[0, 0] = float("nan")
    assert fingerprint_parameter(parameter) == fingerprint_parameter(parameter)
