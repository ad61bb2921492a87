"""
Layers in the form that a CPU is fast in: the same parameters, the same numbers up to rounding.

What is made of parameters here costs little and is made in each call, so that nothing can go stale; what does cost
something is kept next to a fingerprint of its parameter (8-bit weights, distances as keys). Where a layer is not what
it was built as (adapters, hooks, layers quantised by others), in training, and in graphs of `torch.compile` and
`torch.export`, layers are called as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeGuard, TypeVar

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional
from transformers.activations import SiLUActivation

from ..configuration_fastconformer import FastConformerConfig
from .few_rows import convolve_few_frames, has_few_frames, has_few_rows, multiply_few_rows
from .int8_linear import INT8_DTYPES, Int8Linear, Int8Weight, multiply_in_8_bits, ready_weight_of, uses_int8

PlainLayer = TypeVar("PlainLayer", nn.Linear, nn.Conv1d)

# The activations that oneDNN's matrix product takes along, and its names for them.
FUSED_ACTIVATIONS: dict[type[nn.Module], str] = {nn.SiLU: "swish", SiLUActivation: "swish", nn.ReLU: "relu"}


def _has_bfloat16_products() -> bool:
    """True if this CPU multiplies in bfloat16 itself, at twice the rate of float32 and more."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


HAS_BFLOAT16_PRODUCTS = _has_bfloat16_products()


@functools.cache
def has_fused_product(dtype: torch.dtype) -> bool:
    """
    True if oneDNN's matrix product with an activation, which `torch.compile` uses, is there for a dtype.

    Not every build of torch has it, and in bfloat16 not every CPU; unlike `nn.Linear` it knows no other way then.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    try:
        ones = torch.ones(2, 16, dtype=dtype, device="cpu")
        product = torch.ops.mkldnn._linear_pointwise(ones, ones, None, "relu", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return bool((product == 16.0).all())


def is_as_built(module: nn.Module) -> bool:
    """True if calling a module does what its class says: no hooks, no replaced `forward`."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def is_inference(states: torch.Tensor, *parameters: torch.Tensor | None) -> bool:
    """
    True if values are all that is wanted of these tensors, all of one dtype and device: no gradients, no graph, no
    autocast, no subclass of a tensor and no mode of torch that looks at operations.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    if type(states) is not torch.Tensor or states.is_meta or torch.is_autocast_enabled(states.device.type):
        return False
    with_gradients = torch.is_grad_enabled()
    if with_gradients and states.requires_grad:
        return False
    return all(
        parameter is None
        or (
            type(parameter) is nn.Parameter
            and parameter.dtype == states.dtype
            and parameter.device == states.device
            and not (with_gradients and parameter.requires_grad)
        )
        for parameter in parameters
    )


def apply_linear(layer: nn.Module, states: torch.Tensor, activation: nn.Module | None = None) -> torch.Tensor:
    """
    A linear layer and, if there is one, the activation after it.

    On a CPU in float32 oneDNN's matrix product takes a tenth less time than MKL's, which `functional.linear` calls,
    and both there and in bfloat16 it computes the activation on the way. Few rows of live streams go another way, see
    `few_rows.py`.

    Args:
        layer: A linear layer, or what stands in its place.
        states: (..., in).
        activation: A module, or None.

    Returns:
        (..., out)
    """
    if _is_dynamic_in_8_bits(layer, states) and states.numel() > 0:
        return _activate(multiply_in_8_bits(layer, states), activation)
    if _is_plain_on_cpu(layer, nn.Linear, states) and states.numel() > 0:
        if has_few_rows(layer.weight, states):
            return _activate(multiply_few_rows(layer.weight, states, layer.bias), activation)
        fused = None if activation is None or not is_as_built(activation) else FUSED_ACTIVATIONS.get(type(activation))
        output = torch.ops.mkldnn._linear_pointwise(states, layer.weight, layer.bias, fused or "none", [], "")
        return output if fused else _activate(output, activation)
    if _is_stored_in_8_bits(layer, states):
        return _activate(layer(states), activation)
    return call_linear(layer, states, activation)


def apply_linears(layers: Sequence[nn.Module], states: torch.Tensor) -> list[torch.Tensor]:
    """`apply_linear` of several layers to the same states, which in 8 bits are rounded once for all of them."""
    if states.numel() > 0 and all(multiplies_in_8_bits(layer, states) for layer in layers):
        weights = [ready_weight_of(layer) for layer in layers]  # type: ignore[arg-type]
        return Int8Weight.multiply_all(weights, states, [layer.bias for layer in layers])  # type: ignore[misc]
    return [apply_linear(layer, states) for layer in layers]


def call_linears(layers: Sequence[nn.Module], states: torch.Tensor) -> list[torch.Tensor]:
    """The same as the modules say it."""
    return [call_linear(layer, states) for layer in layers]


def apply_linear_like(model_layer: nn.Module, layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """`apply_linear` of a layer with floating weights, in 8 bits where another layer is stored in 8 bits."""
    is_rounded = _is_stored_in_8_bits(model_layer, states) and _is_for_values(layer, nn.Linear, states)
    return multiply_in_8_bits(layer, states) if is_rounded else apply_linear(layer, states)  # type: ignore[arg-type]


def call_linear(layer: nn.Module, states: torch.Tensor, activation: nn.Module | None = None) -> torch.Tensor:
    """The same as the modules say it, one after the other."""
    output = layer(states)
    return output if activation is None else activation(output)


def is_reference(config: FastConformerConfig) -> bool:
    """True if every operation is to be the plain one, in NeMo's order."""
    return config._attn_implementation == "eager"


def choose_linear(config: FastConformerConfig) -> Callable[..., torch.Tensor]:
    """The way of a model of this configuration through linear layers: `apply_linear`, or plainly."""
    return call_linear if is_reference(config) else apply_linear


def multiplies_in_8_bits(layer: nn.Module, states: torch.Tensor) -> bool:
    """True if `apply_linear` uses 8-bit weights for these states."""
    return _is_stored_in_8_bits(layer, states) or _is_dynamic_in_8_bits(layer, states)


def _is_stored_in_8_bits(layer: nn.Module, states: torch.Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    return type(layer) is Int8Linear and is_as_built(layer) and states.device.type == "cpu" and is_inference(states)


def _is_dynamic_in_8_bits(layer: nn.Module, states: torch.Tensor) -> TypeGuard[nn.Linear]:
    if torch.compiler.is_compiling():
        return False
    return states.dtype in INT8_DTYPES and uses_int8(layer) and _is_for_values(layer, nn.Linear, states)


def _is_plain_on_cpu(layer: nn.Module, kind: type[PlainLayer], states: torch.Tensor) -> TypeGuard[PlainLayer]:
    return _is_for_values(layer, kind, states) and has_fused_product(states.dtype)


def _is_for_values(layer: nn.Module, kind: type[PlainLayer], states: torch.Tensor) -> TypeGuard[PlainLayer]:
    """True for a layer as it was built, in evaluation on a CPU, of which only values are wanted."""
    if torch.compiler.is_compiling():
        return False
    return (
        type(layer) is kind
        and not layer.training
        and states.device.type == "cpu"
        and is_as_built(layer)
        and is_inference(states, layer.weight, layer.bias)
    )


def _activate(output: torch.Tensor, activation: nn.Module | None) -> torch.Tensor:
    if activation is None:
        return output
    if FUSED_ACTIVATIONS.get(type(activation)) == "swish" and is_as_built(activation):
        return functional.silu(output, inplace=True)
    return activation(output)


def takes_frames_first(layer: nn.Conv1d, states: torch.Tensor) -> bool:
    """True if `convolve_frames` can stand for a depthwise convolution."""
    return _is_plain_on_cpu(layer, nn.Conv1d, states)


def can_be_folded(norm: nn.Module) -> TypeGuard[nn.BatchNorm1d]:
    """True if `convolve_frames` can take a norm along: a batch norm in evaluation that is what it was built as."""
    return type(norm) is nn.BatchNorm1d and is_as_built(norm) and not norm.training and norm.running_var is not None


def convolve_frames(
    layer: nn.Conv1d, states: torch.Tensor, padding: tuple[int, int], folded_norm: nn.Module | None = None
) -> torch.Tensor:
    """
    A depthwise convolution over time without turning frames into the last axis, and a batch norm folded into it.

    Args:
        layer: Depthwise.
        states: (batch, frames, channels).
        padding: Frames of zeros before and after.
        folded_norm: One that `can_be_folded`; None for the convolution without a norm.

    Returns:
        (batch, frames, channels)
    """
    return FramesConvolution(layer, folded_norm, states.dtype)(states, padding)


class FramesConvolution:
    """
    `convolve_frames` with what is made of the parameters kept.

    oneDNN has a form of it for images whose channels are last, which a row of frames is. It takes a tenth of the time
    of `nn.Conv1d` in float32, and in 16 bits, where some CPUs have no other form, much less.

    Args:
        layer: Depthwise.
        folded_norm: See `convolve_frames`.
        dtype: Of the states.
    """

    def __init__(self, layer: nn.Conv1d, folded_norm: nn.Module | None, dtype: torch.dtype) -> None:
        weight: torch.Tensor = layer.weight[:, :, None]  # (channels, 1, 1, kernel)
        bias = layer.bias
        if folded_norm is not None:
            assert can_be_folded(folded_norm)
            weight, bias = _fold(weight, bias, folded_norm, dtype)
        self.weight, self.bias, self.groups = weight, bias, layer.groups
        self._image_weight: torch.Tensor | None = None

    def __call__(self, states: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
        """(batch, frames, channels) to the same, with frames of zeros before and after."""
        weight, bias = self.weight, self.bias
        if padding[0] != padding[1]:
            states = functional.pad(states, (0, 0, *padding))
        both_sides = padding[0] if padding[0] == padding[1] else 0
        num_frames = states.shape[1] + 2 * both_sides - weight.shape[-1] + 1
        if not both_sides and has_few_frames(states, num_frames):
            return convolve_few_frames(weight[:, 0, 0], bias, states)
        if self._image_weight is None:
            self._image_weight = weight.contiguous(memory_format=torch.channels_last)
        image = states.transpose(1, 2)[:, :, None]  # (batch, channels, 1, frames), channels last in memory
        output = functional.conv2d(image, self._image_weight, bias, padding=(0, both_sides), groups=self.groups)
        return output[:, :, 0].transpose(1, 2)


def _fold(
    weight: torch.Tensor, bias: torch.Tensor | None, norm: nn.BatchNorm1d, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (channels, 1, 1, kernel) and bias of a convolution and the batch norm after it."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = torch.rsqrt(norm.running_var.float() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = norm.running_mean if bias is None else norm.running_mean - bias
    shift = -shift * scale if norm.bias is None else norm.bias - shift * scale
    return (weight * scale[:, None, None, None]).to(dtype), shift.to(dtype)
