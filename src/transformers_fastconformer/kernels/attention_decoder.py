"""
A transformer decoder in the form that decoding wants: few tokens at a time, as little read as possible.

Made from plain tensors, knows no models. At one clip what binds is reading weights, and what is done around it: so
queries, keys and values of a layer are one product, weights are packed once, keys and values of tokens have room to
grow, and those of the frames are computed once for a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch.nn import functional

from .int8_linear import Int8Weight
from .transducer_networks import pack_weight

# Tokens that there is room for at first, after the prompt; the room doubles when it is full.
FIRST_ROOM = 64

Parameters = tuple[torch.Tensor, torch.Tensor]  # weight and bias
LinearParameters = tuple[torch.Tensor | Int8Weight, torch.Tensor]  # of a layer that may be stored in 8 bits


class RowLinear:
    """A linear layer for few rows, with what follows it: an activation, or a sum. See `Projection`."""

    def __init__(self, weight: torch.Tensor | Int8Weight, bias: torch.Tensor, activation: str = "none") -> None:
        self.bias, self.activation = bias.contiguous(), activation
        self.rounded, self.packed, self.weight = None, None, None
        if isinstance(weight, Int8Weight):
            self.rounded = weight
            return
        self.packed = pack_weight(weight)
        self.weight = weight if self.packed is None else None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, in) to (rows, out)."""
        if self.rounded is not None:
            return self._activate(self.rounded.multiply(rows, self.bias))
        if self.packed is not None:
            fused = self.activation if self.activation == "relu" else "none"
            output = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, fused, [], "")
            return functional.gelu(output) if self.activation == "gelu" else output
        assert self.weight is not None
        return self._activate(functional.linear(rows, self.weight, self.bias))

    def add_to(self, terms: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The layer of rows (rows, in), without an activation, and terms (rows, out)."""
        if self.rounded is not None:
            return self.rounded.multiply(rows, self.bias) + terms
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(rows, terms, self.packed, self.bias, "add")
        assert self.weight is not None
        return functional.linear(rows, self.weight, self.bias) + terms

    def _activate(self, output: torch.Tensor) -> torch.Tensor:
        if self.activation == "none":
            return output
        return functional.relu(output) if self.activation == "relu" else functional.gelu(output)


class LayerTensors(NamedTuple):
    """
    Tensors of one decoder layer: weight and bias of each part, and those of the projections of frames.

    Args:
        norm_tokens, norm_frames, norm_feed_forward: Norms of the three parts.
        query, key, value, output: Attention over tokens.
        frames_query, frames_key, frames_value, frames_output: Attention over frames.
        inner, outer: Feed-forward module.
    """

    norm_tokens: Parameters
    query: LinearParameters
    key: LinearParameters
    value: LinearParameters
    output: LinearParameters
    norm_frames: Parameters
    frames_query: LinearParameters
    frames_key: LinearParameters
    frames_value: LinearParameters
    frames_output: LinearParameters
    norm_feed_forward: Parameters
    inner: LinearParameters
    outer: LinearParameters


class _Joined:
    """Layers of the same rows, next to each other."""

    def __init__(self, layers: Sequence[RowLinear]) -> None:
        self.layers = layers

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, in) to (rows, out of all layers)."""
        return torch.cat([layer(rows) for layer in self.layers], dim=-1)


def _join(layers: Sequence[LinearParameters], is_in_8_bits: bool) -> RowLinear | _Joined:
    """One product of several layers; weights that are rounded already, and shared with modules, stay apart."""
    weights = [weight for weight, _ in layers if not isinstance(weight, Int8Weight)]
    if len(weights) < len(layers):
        return _Joined([RowLinear(*layer) for layer in layers])
    joined = torch.cat(weights)
    return RowLinear(Int8Weight(joined) if is_in_8_bits else joined, torch.cat([bias for _, bias in layers]))


class _Layer:
    def __init__(self, tensors: LayerTensors, activation: str, is_in_8_bits: bool) -> None:
        def linear(parameters: LinearParameters, activation: str = "none") -> RowLinear:
            weight, bias = parameters
            if is_in_8_bits and isinstance(weight, torch.Tensor):
                weight = Int8Weight(weight)
            return RowLinear(weight, bias, activation)

        self.norm_tokens, self.norm_frames = tensors.norm_tokens, tensors.norm_frames
        self.norm_feed_forward = tensors.norm_feed_forward
        self.query_key_value = _join([tensors.query, tensors.key, tensors.value], is_in_8_bits)
        self.output = linear(tensors.output)
        self.frames_query = linear(tensors.frames_query)
        # The form for few rows is not for many frames, except in 8 bits.
        self.frames_key_value: list[RowLinear | Parameters] = [
            (weight, bias) if isinstance(weight, torch.Tensor) and not is_in_8_bits else linear((weight, bias))
            for weight, bias in (tensors.frames_key, tensors.frames_value)
        ]
        self.frames_output = linear(tensors.frames_output)
        self.inner = linear(tensors.inner, activation)
        self.outer = linear(tensors.outer)


@dataclass(frozen=True)
class AttentionDecoderState:
    """
    Past of the clips of a batch.

    Args:
        tokens: Keys and values of each layer, (2, batch, heads, room, head size); written in place.
        frames: Keys and values of the frames of each layer, (2, batch, heads, frames, head size).
        frames_mask: (batch, 1, 1, frames), True for frames that count; None: all do.
        length: Tokens that the state knows.
    """

    tokens: tuple[torch.Tensor, ...]
    frames: tuple[torch.Tensor, ...]
    frames_mask: torch.Tensor | None
    length: int

    def select(self, clips: torch.Tensor) -> AttentionDecoderState:
        """The state of some clips, by their numbers (n,)."""
        mask = None if self.frames_mask is None else self.frames_mask[clips]
        frames = tuple(part.index_select(1, clips) for part in self.frames)
        if mask is not None:
            # Frames that none of those left has are not read again.
            longest = int(mask.sum(dim=-1).max())
            mask = None if bool(mask[..., :longest].all()) else mask[..., :longest]
            frames = tuple(part[:, :, :, :longest] for part in frames)
        return replace(self.reorder(clips), frames=frames, frames_mask=mask)

    def reorder(self, parents: torch.Tensor) -> AttentionDecoderState:
        """The state of texts that go on from others over the same frames, by their numbers (n,)."""
        return replace(self, tokens=tuple(part.index_select(1, parents) for part in self.tokens))


class AttentionDecoder:
    """
    Steps of a transformer decoder over new tokens.

    Args:
        embedding: (classes, size), which the head is tied to.
        positions: (positions, size).
        norm_embedding: Norm of their sum.
        layers: Tensors of the layers.
        norm: Norm after the last layer; None: no norm stands there.
        head_bias: (classes,).
        num_heads: Heads of all attentions.
        is_pre_norm: Norms stand before the parts, not after the sums.
        activation: `"relu"` or `"gelu"`.
        epsilon: Of the norms.
        is_in_8_bits: The products of the layers, not of the head, are those of `kernels.int8_linear`; those of layers
            that have an `Int8Weight` always are.
    """

    def __init__(
        self,
        embedding: torch.Tensor,
        positions: torch.Tensor,
        norm_embedding: Parameters,
        layers: Sequence[LayerTensors],
        norm: Parameters | None,
        head_bias: torch.Tensor,
        num_heads: int,
        is_pre_norm: bool,
        activation: str,
        epsilon: float,
        is_in_8_bits: bool = False,
    ) -> None:
        self.embedding, self.positions, self.norm_embedding = embedding, positions, norm_embedding
        self.layers = [_Layer(tensors, activation, is_in_8_bits) for tensors in layers]
        self.norm = norm
        self.head = RowLinear(embedding, head_bias)
        self.num_heads, self.is_pre_norm, self.epsilon = num_heads, is_pre_norm, epsilon
        self.size = embedding.shape[1]

    def start(self, frames: torch.Tensor, frames_mask: torch.Tensor | None) -> AttentionDecoderState:
        """
        The state before the first token.

        Args:
            frames: (batch, frames, size).
            frames_mask: (batch, 1, 1, frames), True for frames that count; None: all do.
        """
        projected = tuple(self._project_frames(layer, frames) for layer in self.layers)
        shape = (2, frames.shape[0], self.num_heads, 0, self.size // self.num_heads)
        return AttentionDecoderState(tuple(frames.new_empty(shape) for _ in self.layers), projected, frames_mask, 0)

    def _project_frames(self, layer: _Layer, frames: torch.Tensor) -> torch.Tensor:
        """Keys and values of frames, (2, batch, heads, frames, head size)."""
        parts = [
            each(frames) if isinstance(each, RowLinear) else functional.linear(frames, *each)
            for each in layer.frames_key_value
        ]
        return torch.stack([self._split(part) for part in parts])

    def step(self, tokens: torch.Tensor, state: AttentionDecoderState) -> tuple[torch.Tensor, AttentionDecoderState]:
        """
        Classes of the token after the new ones.

        Args:
            tokens: (batch, tokens); several only in the first step.
            state: State before them, whose tensors are written to and not to be used again.

        Returns:
            Scores before the softmax, (batch, classes), and the state after them.
        """
        batch_size, count = tokens.shape
        end = state.length + count
        state = self._with_room(state, end)
        hidden = self.embedding[tokens] + self.positions[state.length : end]
        hidden = self._norm(hidden, self.norm_embedding).flatten(0, 1)  # (batch * tokens, size)
        for index, layer in enumerate(self.layers):
            rows = self._norm(hidden, layer.norm_tokens) if self.is_pre_norm else hidden
            context = self._attend_to_tokens(layer, rows, state.tokens[index], state.length, end, batch_size)
            hidden = layer.output.add_to(hidden, context)
            if not self.is_pre_norm:
                hidden = self._norm(hidden, layer.norm_tokens)
            rows = self._norm(hidden, layer.norm_frames) if self.is_pre_norm else hidden
            query = self._split(layer.frames_query(rows).unflatten(0, (batch_size, count)))
            key, value = state.frames[index].unbind()
            context = functional.scaled_dot_product_attention(query, key, value, state.frames_mask)
            hidden = layer.frames_output.add_to(hidden, context.transpose(1, 2).reshape(-1, self.size))
            if not self.is_pre_norm:
                hidden = self._norm(hidden, layer.norm_frames)
            rows = self._norm(hidden, layer.norm_feed_forward) if self.is_pre_norm else hidden
            hidden = layer.outer.add_to(hidden, layer.inner(rows))
            if not self.is_pre_norm:
                hidden = self._norm(hidden, layer.norm_feed_forward)
        last = hidden.unflatten(0, (batch_size, count))[:, -1]
        if self.norm is not None:
            last = self._norm(last, self.norm)
        return self.head(last.contiguous()), replace(state, length=end)

    def _attend_to_tokens(
        self, layer: _Layer, rows: torch.Tensor, past: torch.Tensor, start: int, end: int, batch_size: int
    ) -> torch.Tensor:
        """Attention over the tokens so far, those of `rows` (batch * tokens, size) included."""
        joined = layer.query_key_value(rows).unflatten(0, (batch_size, end - start))
        query, key, value = joined.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        past[0, :, :, start:end] = key
        past[1, :, :, start:end] = value
        is_causal = end - start > 1
        assert not is_causal or start == 0
        context = functional.scaled_dot_product_attention(
            query, past[0, :, :, :end], past[1, :, :, :end], is_causal=is_causal
        )
        return context.transpose(1, 2).reshape(-1, self.size)

    def _with_room(self, state: AttentionDecoderState, length: int) -> AttentionDecoderState:
        """The state with room for so many tokens."""
        room = state.tokens[0].shape[3]
        if room >= length:
            return state
        room = max(length + FIRST_ROOM, 2 * room)
        grown = []
        for part in state.tokens:
            wide = part.new_empty(*part.shape[:3], room, part.shape[4])
            wide[:, :, :, : state.length] = part[:, :, :, : state.length]
            grown.append(wide)
        return replace(state, tokens=tuple(grown))

    def _norm(self, states: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        return functional.layer_norm(states, (self.size,), *parameters, self.epsilon)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, length, size) to (batch, heads, length, head size)."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
