"""
Matrix products with 8-bit weights and activations on a CPU, made from the parameters of linear layers.

Weights are rounded once for each output, activations in each call for each frame, both to the largest magnitude, so
that the result of a frame depends on no other frame. Sums are exact (32-bit integers). The product is oneDNN's, which
torch's own quantised layers use as well.
"""

from __future__ import annotations

import functools
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

# Magnitudes are rounded to whole numbers up to this; activations are stored unsigned, so they are shifted.
LARGEST = 127
UNSIGNED_ZERO = 128
SAMPLES_PER_PARAMETER = 4096


@functools.cache
def has_int8_products() -> bool:
    """
    Whether this build of torch multiplies 8-bit numbers on this CPU, and exactly.

    On x86 without VNNI oneDNN adds pairs of products in 16 bits, which are too few for them.
    """
    try:
        largest = torch.ones(16, 512, device="cpu")
        return bool((Int8Weight(largest).multiply(largest, None) - 512.0).abs().max() < 0.01)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


class Int8Weight:
    """
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


_Known = tuple[tuple[Any, ...], Int8Weight] | None
_weights: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def use_int8(layer: nn.Linear, is_used: bool) -> None:
    """Let `find_int8_weight` give 8-bit weights for a layer, or no longer."""
    if is_used:
        _weights.setdefault(layer, None)
    else:
        _weights.pop(layer, None)


def uses_int8(layer: nn.Module) -> bool:
    """Whether `use_int8` was said of a layer."""
    return layer in _weights


def find_int8_weight(layer: Any) -> Int8Weight | None:
    """The 8-bit weight of a layer, made anew if the layer's has changed; None for a layer that has none."""
    if not _weights or layer not in _weights:
        return None
    fingerprint = fingerprint_parameter(layer.weight)
    known = _weights[layer]
    if known is None or known[0] != fingerprint:
        known = (fingerprint, Int8Weight(layer.weight))
        _weights[layer] = known
    return known[1]


def fingerprint_parameter(parameter: nn.Parameter) -> tuple[Any, ...]:
    """
    Changes with the values of a parameter: by its counter of versions, and, for changes that do not count, such as
    those through `.data`, by some thousand of its values, spread over rows and columns.
    """
    version = -1 if parameter.is_inference() else parameter._version
    flat = parameter.detach().reshape(-1)
    samples = flat[:: max(1, flat.numel() // SAMPLES_PER_PARAMETER) | 1]
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[flat.element_size()]
    checksum = int(samples.view(integers).sum(dtype=torch.int64))  # of bits: NaN is equal to itself
    return (parameter.data_ptr(), version, parameter.dtype, str(parameter.device), checksum)
