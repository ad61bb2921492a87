"""
Matrix products with 8-bit weights and activations on a CPU, made from the parameters of linear layers.

Weights are rounded once for each output, activations in each call for each frame, both to the largest magnitude, so
that the result of a frame depends on no other frame. Sums are exact (32-bit integers). The product is oneDNN's, which
torch's own quantised layers use as well.
"""

from __future__ import annotations

import functools
from weakref import WeakSet

import torch
from torch import nn

from .parameter_cache import ParameterCache

# Magnitudes are rounded to whole numbers up to this; activations are stored unsigned, so they are shifted.
LARGEST = 127
UNSIGNED_ZERO = 128


@functools.cache
def has_int8_products() -> bool:
    """
    True if this build of torch multiplies 8-bit numbers on this CPU, and exactly.

    On x86 without VNNI oneDNN adds pairs of products in 16 bits, which are too few for them.
    """
    try:
        largest = torch.ones(16, 512, dtype=torch.float32, device="cpu")
        return bool((Int8Weight(largest).multiply(largest, None) - 512.0).abs().max() < 0.01)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


class Int8Weight:
    """
    The weight of a linear layer in 8 bits, packed for oneDNN.

    Args:
        weight: (out, in), of any floating dtype.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        weight = weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny) / LARGEST  # (out,)
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        self.scale = scale
        self.zeros = torch.zeros(weight.shape[0], dtype=torch.int32, device=weight.device)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def multiply(self, states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """(..., in) to (..., out), in the dtype of `states`, which may be float32 or bfloat16."""
        rows = states.reshape(-1, states.shape[-1]).float()
        largest = torch.maximum(rows.amax(dim=-1, keepdim=True), -rows.amin(dim=-1, keepdim=True))  # (rows, 1)
        scale = largest.clamp_(min=torch.finfo(torch.float32).tiny * LARGEST).div_(LARGEST)
        # `round_` and the conversion are vectorised, the one to unsigned integers is not.
        signed = torch.mul(rows, scale.reciprocal()).round_().to(torch.int8)
        unsigned = signed.view(torch.uint8).bitwise_xor_(UNSIGNED_ZERO)
        output = torch.ops.onednn.qlinear_pointwise(
            unsigned,
            1.0,
            UNSIGNED_ZERO,
            self.packed,
            self.scale,
            self.zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        output = output.mul_(scale)
        if bias is not None:
            output += bias
        return output.unflatten(0, states.shape[:-1]).to(states.dtype)


_layers: WeakSet[nn.Module] = WeakSet()
_weights: ParameterCache[Int8Weight] = ParameterCache()


def use_int8(layer: nn.Linear, is_used: bool) -> None:
    """Let `find_int8_weight` give 8-bit weights for a layer, or no longer."""
    if is_used:
        _layers.add(layer)
    else:
        _layers.discard(layer)
        _weights.drop(layer)


def uses_int8(layer: nn.Module) -> bool:
    """True after `use_int8` was said of a layer."""
    return layer in _layers


def find_int8_weight(layer: nn.Linear) -> Int8Weight | None:
    """The 8-bit weight of a layer, made anew if the layer's has changed; None for a layer that has none."""
    if not _layers or layer not in _layers:
        return None
    return _weights.get(layer, (layer.weight,), lambda: Int8Weight(layer.weight))
