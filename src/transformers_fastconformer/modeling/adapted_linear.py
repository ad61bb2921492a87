"""Weight and bias of a linear layer with PEFT's LoRA, as one layer that stands for both."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import nn

from ..kernels.layers import is_as_built


class LinearWeights(NamedTuple):
    """
    Weight and bias that a linear layer computes with.

    Args:
        weight: (out, in).
        bias: (out,).
    """

    weight: torch.Tensor
    bias: torch.Tensor


def effective_weights(layer: nn.Module) -> LinearWeights | None:
    """
    The weights with which one product does what calling the layer does, through which gradients reach its adapters.

    Args:
        layer: A linear layer, or PEFT's LoRA around one, with any number of active adapters.

    Returns:
        None where no such weights exist or are not known: with hooks, dropout in front of an adapter, other adapters
        than plain LoRA, quantised layers.
    """
    if type(layer) is nn.Linear and is_as_built(layer):
        return LinearWeights(layer.weight, layer.bias)
    lora = sys.modules.get("peft.tuners.lora.layer")  # imported by whoever put an adapter there
    if lora is None or type(layer) is not lora.Linear or not is_as_built(layer):
        return None
    adapted: Any = layer
    base = adapted.get_base_layer()
    if type(base) is not nn.Linear or not is_as_built(base):
        return None
    if adapted.merged and adapted.disable_adapters:
        return None  # calling the layer takes the adapter out of the weight
    weight = base.weight
    if adapted.merged or adapted.disable_adapters:
        return LinearWeights(weight, base.bias)
    for name in adapted.active_adapters:
        if name not in adapted.lora_A:
            continue
        if name in adapted.lora_variant or adapted.lora_bias[name]:
            return None
        down, up, dropout = adapted.lora_A[name], adapted.lora_B[name], adapted.lora_dropout[name]
        is_dropped = type(dropout) is not nn.Identity and dropout.training and dropout.p > 0
        if is_dropped or not all(type(part) is nn.Linear and is_as_built(part) for part in (down, up)):
            return None
        weight = weight + (adapted.scaling[name] * (up.weight @ down.weight)).to(weight.dtype)
    return LinearWeights(weight, base.bias)
