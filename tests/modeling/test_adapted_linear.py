"""Weights of a layer with LoRA: one product for both, its gradients, what is refused; lean losses of such a head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import build_model, make_features
from torch import nn

from transformers_fastconformer.modeling.adapted_linear import effective_weights

peft = pytest.importorskip("peft", reason="peft is not installed")


def adapt(layer: nn.Module, **options: Any) -> Any:
    """A module with one layer, adapted with random weights; the adapted layer is its `layer`."""
    holder = nn.Module()
    holder.layer = layer
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["layer"], **options), holder)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    return adapted


def test_a_plain_layer_is_its_own_weights() -> None:
    layer = nn.Linear(4, 3)
    assert effective_weights(layer) == (layer.weight, layer.bias)


def test_one_product_does_what_base_and_adapter_do() -> None:
    torch.manual_seed(0)
    layer = adapt(nn.Linear(4, 3), lora_alpha=6).layer
    rows = torch.randn(5, 4)
    weights = effective_weights(layer)
    assert weights is not None
    product = nn.functional.linear(rows, *weights)
    torch.testing.assert_close(product, layer(rows))
    assert (product - layer.base_layer(rows)).abs().max() > 0.1, "the adapter does nothing"
    parameters = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    ours = torch.autograd.grad(product.square().sum(), parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(layer(rows).square().sum(), parameters))


def test_adapters_that_are_off_or_merged_do_not_count_twice() -> None:
    torch.manual_seed(0)
    layer, rows = adapt(nn.Linear(4, 3)).layer, torch.randn(5, 4)
    layer.enable_adapters(False)
    assert effective_weights(layer) == (layer.base_layer.weight, layer.base_layer.bias)
    layer.enable_adapters(True)
    expected = layer(rows)
    layer.merge()
    weights = effective_weights(layer)
    assert weights is not None
    torch.testing.assert_close(nn.functional.linear(rows, *weights), expected)
    layer.enable_adapters(False)
    assert effective_weights(layer) is None, "calling it changes its weight"


def test_what_is_not_one_product_is_left_to_the_layer() -> None:
    dropped = adapt(nn.Linear(4, 3), lora_dropout=0.5)
    assert effective_weights(dropped.train().layer) is None
    assert effective_weights(dropped.eval().layer) is not None
    assert effective_weights(adapt(nn.Linear(4, 3), use_dora=True).layer) is None
    assert effective_weights(adapt(nn.Linear(4, 3), lora_bias=True).layer) is None
    hooked = nn.Linear(4, 3)
    hooked.register_forward_hook(lambda *_: None)
    assert effective_weights(hooked) is None
    assert effective_weights(nn.Identity()) is None


@pytest.mark.parametrize("kind", ["rnnt", "tdt", "tdt_hybrid"])
def test_the_lean_loss_of_an_adapted_head_is_that_of_all_logits(kind: str) -> None:
    model = build_model(kind).train(False)
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["joint.head"]), model)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    batch = {"input_features": make_features([64, 40]), "input_lengths": torch.tensor([64, 40])}
    batch["labels"] = torch.tensor([[1, 2, 3], [4, -100, -100]])
    assert model.joint.for_loss(torch.zeros(1, 2, 14), torch.zeros(1, 3, 14)) is not None
    lean = adapted(**batch).loss
    full = adapted(**batch, output_logits=True).loss
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert len(parameters) == 2
    torch.testing.assert_close(lean, full)
    torch.testing.assert_close(
        torch.autograd.grad(lean, parameters), torch.autograd.grad(full, parameters), rtol=1e-4, atol=1e-5
    )
