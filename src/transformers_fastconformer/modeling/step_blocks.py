"""
Blocks of the encoder for steps of live streams on a CPU: the numbers of the modules, without asking again each time.

A step of one stream has a frame or two: after the reading of the weights, its time is that of looking up parts of
modules, of asking whether fast forms may be used, and of finding 8-bit weights. All of that is decided once here and
holds as long as the modules are what they were, which each step looks at. Values that are changed without torch's
knowledge (`.data`) are seen when a stream starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional

from ..kernels.few_rows import multiply_few_rows, prefers_few_rows
from ..kernels.int8_linear import Int8Weight, ready_weight_of
from ..kernels.layers import (
    FUSED_ACTIVATIONS,
    FramesConvolution,
    can_be_folded,
    has_fused_product,
    is_as_built,
    is_inference,
    is_reference,
    multiplies_in_8_bits,
)
from ..kernels.module_tree import ModuleTree
from .attention import FastConformerAttention
from .block import FastConformerBlock, FastConformerConvolution, FastConformerFeedForward
from .stream_layer import StreamLayer

StepBlock = Callable[[torch.Tensor, StreamLayer], torch.Tensor]

_PLAIN_MODULES: tuple[type[nn.Module], ...] = (
    FastConformerBlock,
    FastConformerFeedForward,
    FastConformerAttention,
    FastConformerConvolution,
    nn.Conv1d,
    nn.LayerNorm,
    nn.BatchNorm1d,
    nn.Dropout,
    *FUSED_ACTIVATIONS,
)


class _Linears:
    """
    Linear layers of the same states, and an activation after them.

    Args:
        layers: All with floating weights, or all in 8 bits.
        activation: One of `FUSED_ACTIVATIONS`, or None.
        states: Some of what they will see.
    """

    def __init__(self, layers: Sequence[nn.Module], activation: nn.Module | None, states: torch.Tensor) -> None:
        self.biases: list[Any] = [layer.bias for layer in layers]
        self.weights: list[Any] = []
        self.int8: list[Int8Weight] = []
        if multiplies_in_8_bits(layers[0], states):
            self.int8 = [ready_weight_of(layer) for layer in layers]  # type: ignore[arg-type]
        else:
            self.weights = [layer.weight for layer in layers]
        self.fused = "none" if activation is None else FUSED_ACTIVATIONS[type(activation)]

    def __call__(self, states: torch.Tensor) -> list[torch.Tensor]:
        """(streams, frames, in) to (streams, frames, out) of each."""
        if self.int8:
            return [self._activate(output) for output in Int8Weight.multiply_all(self.int8, states, self.biases)]
        pairs = zip(self.weights, self.biases, strict=True)
        if prefers_few_rows(states.dtype, states.shape[0] * states.shape[1]):
            return [self._activate(multiply_few_rows(weight, states, bias)) for weight, bias in pairs]
        multiply = torch.ops.mkldnn._linear_pointwise
        return [multiply(states, weight, bias, self.fused, [], "") for weight, bias in pairs]

    def _activate(self, output: torch.Tensor) -> torch.Tensor:
        if self.fused == "swish":
            return functional.silu(output, inplace=True)
        return output if self.fused == "none" else functional.relu(output, inplace=True)


class _Norm:
    """A layer norm."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.parts = (norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return torch.layer_norm(states, *self.parts)


class _FeedForward:
    def __init__(self, module: FastConformerFeedForward, states: torch.Tensor) -> None:
        self.linear1 = _Linears([module.linear1], module.activation, states)
        self.linear2 = _Linears([module.linear2], None, states)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return self.linear2(self.linear1(states)[0])[0]


class _Attention:
    def __init__(self, module: FastConformerAttention, states: torch.Tensor) -> None:
        self.heads = (module.num_heads, module.head_dim)
        self.attend = module.attend_rings
        self.projections = _Linears([module.q_proj, module.k_proj, module.v_proj], None, states)
        self.output = _Linears([module.o_proj], None, states)
        self.biases = (module.bias_u[:, None], module.bias_v[:, None])

    def __call__(self, states: torch.Tensor, stream: StreamLayer) -> torch.Tensor:
        projected = self.projections(states)
        query, key, value = (part.unflatten(-1, self.heads).transpose(1, 2) for part in projected)
        return self.output(self.attend((query, key, value), self.biases, stream, False))[0]


class _Convolution:
    def __init__(self, module: FastConformerConvolution, states: torch.Tensor) -> None:
        self.right_frames = module.padding[1]
        self.pointwise1 = _Linears([module.pointwise_conv1], None, states)
        self.pointwise2 = _Linears([module.pointwise_conv2], None, states)
        folded_norm = module.norm if module.norm_kind.is_folded else None
        self.depthwise = FramesConvolution(module.depthwise_conv, folded_norm, states.dtype)
        self.norm = None if folded_norm is not None else _Norm(module.norm)  # type: ignore[arg-type]
        self.activation = module.activation

    def __call__(self, states: torch.Tensor, stream: StreamLayer) -> torch.Tensor:
        states = functional.glu(self.pointwise1(states)[0], dim=-1)
        if stream.padding_mask is not None:
            states = states.masked_fill(~stream.padding_mask[..., None], 0.0)
        states = self.depthwise(stream.extend(states, self.right_frames), (0, 0))
        if self.norm is not None:
            states = self.norm(states)
        return self.pointwise2(self.activation(states))[0]


class _Block:
    def __init__(self, block: FastConformerBlock, states: torch.Tensor) -> None:
        self.feed_forward1 = _FeedForward(block.feed_forward1, states)
        self.attention = _Attention(block.self_attn, states)
        self.convolution = _Convolution(block.conv, states)
        self.feed_forward2 = _FeedForward(block.feed_forward2, states)
        norms = (block.norm_feed_forward1, block.norm_self_att, block.norm_conv, block.norm_feed_forward2)
        self.norms = [_Norm(norm) for norm in (*norms, block.norm_out)]

    def __call__(self, states: torch.Tensor, stream: StreamLayer) -> torch.Tensor:
        norm1, norm2, norm3, norm4, norm_out = self.norms
        states = torch.add(states, self.feed_forward1(norm1(states)), alpha=0.5)
        states = states + self.attention(norm2(states), stream)
        states = states + self.convolution(norm3(states), stream)
        states = torch.add(states, self.feed_forward2(norm4(states)), alpha=0.5)
        return norm_out(states)


class _Kept:
    """The blocks of an encoder for states of a dtype, and what they were made of."""

    def __init__(self, encoder: Any, states: torch.Tensor) -> None:
        self.dtype = states.dtype
        self.tree = ModuleTree(encoder.layers)
        self.blocks: list[StepBlock] = [_Block(block, states) for block in encoder.layers]


_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def find_step_blocks(encoder: Any, states: torch.Tensor, starts: bool) -> list[StepBlock]:
    """
    The blocks of an encoder for a step.

    Args:
        encoder: A [`FastConformerEncoder`] in evaluation.
        states: (streams, frames, hidden_size), what its first block will see.
        starts: True where a stream starts, so that the values of the weights are looked at again.

    Returns:
        Functions of (streams, frames, hidden_size) and the state of the streams: fast forms, or the modules where
        these are not what they were built as.
    """
    if states.device.type != "cpu" or not is_inference(states):
        return _call_modules(encoder)
    kept = _kept.get(encoder)
    if kept is None or starts or kept.dtype != states.dtype or not kept.tree.is_unchanged():
        _kept.pop(encoder, None)
        if not _are_plain(encoder, states):
            return _call_modules(encoder)
        kept = _kept[encoder] = _Kept(encoder, states)
    return kept.blocks


def _call_modules(encoder: Any) -> list[StepBlock]:
    def bind(block: nn.Module) -> StepBlock:
        return lambda states, stream: block(states, None, None, stream=stream)[0]

    return [bind(block) for block in encoder.layers]


def _are_plain(encoder: Any, states: torch.Tensor) -> bool:
    """True if the forms here compute what the modules do."""
    if is_reference(encoder.config) or not has_fused_product(states.dtype):
        return False
    for block in encoder.layers:
        if type(block) is not FastConformerBlock or not block.self_attn.has_relative_positions:
            return False
        for module in block.modules():
            if module.training or not is_as_built(module):
                return False
            is_linear = type(module) is nn.Linear or multiplies_in_8_bits(module, states)
            if not is_linear and type(module) not in _PLAIN_MODULES:
                return False
            if not all(is_inference(states, parameter) for parameter in module.parameters(recurse=False)):
                return False
        is_norm_plain = can_be_folded(block.conv.norm) if block.conv.norm_kind.is_folded else True
        if block.conv.norm_kind.counts_frames or not is_norm_plain:
            return False
        projections = (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)
        if len({multiplies_in_8_bits(layer, states) for layer in projections}) > 1:
            return False
    return True
