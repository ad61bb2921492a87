"""
Self-attention of the encoder. Its mathematics are in `full_attention.py` and, for a sliding window with global tokens
(`position_embedding_type="rel_pos_local_attn"`), in `local_attention.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig
from ..kernels.layers import (
    HAS_BFLOAT16_PRODUCTS,
    apply_linear_like,
    apply_linears,
    call_linears,
    choose_linear,
    is_as_built,
    is_inference,
    is_reference,
    multiplies_in_8_bits,
)
from ..kernels.parameter_cache import ParameterCache
from .full_attention import CPU_BLOCK, eager_attention, sdpa_attention
from .local_attention import blocked_local_attention, eager_local_attention, select_global_tokens
from .masking import FrameMask, is_loop_over_frames_allowed
from .positions import relative_positions, sinusoids
from .ring_attention import ring_attention
from .stream_layer import StreamLayer

# Distances as keys depend only on the weights, and those of a short clip are among those of a longer one. They are
# kept for clips of so many frames (30 s at a subsampling of 8), where they are 7 % of what a single clip costs; they
# take 3 % of the memory of the weights.
KEPT_FRAMES = 376
_kept_position_keys: ParameterCache[torch.Tensor] = ParameterCache()


def prepare_mask(config: FastConformerConfig, mask: FrameMask, device: torch.device) -> FrameMask:
    """The mask of a batch made whole where all blocks of the encoder would make the same rows of it."""
    if config.has_local_attention or mask.spans is not None:
        return mask  # the window is no mask there, and clips of a row have masks of their own
    is_whole = is_reference(config) or not is_loop_over_frames_allowed(mask.num_frames)
    return mask.materialize(device) if is_whole or mask.num_frames <= CPU_BLOCK[0] else mask


Projections = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class AttentionStates(NamedTuple):
    """
    Queries, keys and values of attention.

    Args:
        query, query_v: (batch, heads, frames, head_dim), queries plus the content bias and plus the position bias.
        key, value: (batch, heads, frames, head_dim).
        position_key: (1, heads, positions, head_dim); `query_v` and this are None without relative positions.
        global_projections: Query, key and value of global tokens, each (batch, heads, frames, head_dim); or None.
    """

    query: torch.Tensor
    query_v: torch.Tensor | None
    key: torch.Tensor
    value: torch.Tensor
    position_key: torch.Tensor | None
    global_projections: Projections | None

    def to(self, dtype: torch.dtype) -> AttentionStates:
        """The same in another dtype; those of global tokens are not there."""
        assert self.global_projections is None
        parts = (self.query, self.query_v, self.key, self.value, self.position_key)
        query, query_v, key, value, position_key = (None if part is None else part.to(dtype) for part in parts)
        assert query is not None
        assert key is not None
        assert value is not None
        return AttentionStates(query, query_v, key, value, position_key, None)

    def take_clip(self, start: int, stop: int, is_local: bool) -> AttentionStates:
        """
        Those of one clip of a packed row, from `start` to before `stop`.

        Positions are made for the longest clip: those of a shorter one are in the middle. A window has one set.
        """
        position_key = self.position_key
        if position_key is not None and not is_local:
            centre = position_key.shape[2] // 2
            position_key = position_key[:, :, centre - (stop - start - 1) : centre + stop - start]
        query_v = None if self.query_v is None else self.query_v[:, :, start:stop]
        global_projections = self.global_projections
        if global_projections is not None:
            global_query, global_key, global_value = (part[:, :, start:stop] for part in global_projections)
            global_projections = (global_query, global_key, global_value)
        return AttentionStates(
            self.query[:, :, start:stop],
            query_v,
            self.key[:, :, start:stop],
            self.value[:, :, start:stop],
            position_key,
            global_projections,
        )


class FastConformerAttention(nn.Module):
    """Multi-head self-attention with relative positions, or without (`position_embedding_type="abs_pos"`)."""

    def __init__(self, config: FastConformerConfig, layer_index: int) -> None:
        super().__init__()
        self.config = config
        self.layer_index = layer_index
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        size, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(size, size, bias=bias)
        self.k_proj = nn.Linear(size, size, bias=bias)
        self.v_proj = nn.Linear(size, size, bias=bias)
        self.o_proj = nn.Linear(size, size, bias=bias)
        self.has_relative_positions = config.has_relative_positions
        if self.has_relative_positions:
            self.relative_k_proj = nn.Linear(size, size, bias=False)
            self.bias_u = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
            self.bias_v = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
        self.has_global_projections = config.has_local_attention and config.global_attention_separate
        if self.has_global_projections:
            self.global_q_proj = nn.Linear(size, size, bias=bias)
            self.global_k_proj = nn.Linear(size, size, bias=bias)
            self.global_v_proj = nn.Linear(size, size, bias=bias)

    def _split_heads(self, projected: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden_size) to (batch, heads, frames, head_dim)."""
        return projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor,
        mask: FrameMask,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: (batch, frames, hidden_size).
            position_embeddings: (positions, hidden_size), see `build_position_table`.
            mask: The frames that the queries may look at.
            output_attentions: Return the probabilities, which takes the plain form.

        Returns:
            (batch, frames, hidden_size), and the probabilities (batch, heads, query, key), with global tokens
            (batch, heads, query, tokens + key), or None.
        """
        states = self._project_states(hidden_states, position_embeddings)
        dtype = states.value.dtype
        if self._prefers_bfloat16(hidden_states) and not output_attentions:
            states = states.to(torch.bfloat16)
        context, probabilities = self._attend_clips(states, mask, output_attentions)
        context = context.to(dtype)
        output = self._project(self.o_proj, context.transpose(1, 2).flatten(-2))  # (batch, frames, hidden_size)
        return output, probabilities if output_attentions else None

    def step(self, hidden_states: torch.Tensor, stream: StreamLayer) -> torch.Tensor:
        """
        Attend from the newest frames of streams to those before, which are in rings, and put them there.

        Args:
            hidden_states: (streams, frames, hidden_size).
            stream: State of the streams in this block.

        Returns:
            (streams, frames, hidden_size)
        """
        projections = self._project_heads(hidden_states, self.q_proj, self.k_proj, self.v_proj)
        biases = (self.bias_u[:, None], self.bias_v[:, None])
        return self._project(self.o_proj, self.attend_rings(projections, biases, stream, is_reference(self.config)))

    @staticmethod
    def attend_rings(
        projections: Projections, biases: tuple[torch.Tensor, torch.Tensor], stream: StreamLayer, is_plain: bool
    ) -> torch.Tensor:
        """
        The part of `step` between its linear layers.

        Args:
            projections: Query, key and value of the newest frames, each (streams, heads, frames, head_dim).
            biases: That of content and that of positions, (heads, 1, head_dim).
            stream: State of the streams in this block.
            is_plain: Operation by operation, as NeMo does it.

        Returns:
            (streams, frames, hidden_size)
        """
        query, key, value = projections
        query = query.to(stream.keys.dtype)  # under autocast it may be another one
        key, value = stream.ring.exchange(stream.keys, key), stream.ring.exchange(stream.values, value)
        query_u, query_v = query + biases[0], query + biases[1]
        context = ring_attention(query_u, query_v, key, value, stream.position_key, stream.ring, is_plain)
        return context.transpose(1, 2).flatten(-2)

    def project_distances(self, position_embeddings: torch.Tensor) -> torch.Tensor:
        """Distances as keys: (positions, hidden_size) to (1, heads, positions, head_dim)."""
        return self._split_heads(self._project_positions(position_embeddings)[None])

    def _project_states(self, hidden_states: torch.Tensor, position_embeddings: torch.Tensor) -> AttentionStates:
        query, key, value = projections = self._project_heads(hidden_states, self.q_proj, self.k_proj, self.v_proj)
        global_projections = None
        if self.config.has_local_attention and self.config.num_global_tokens > 0:
            global_projections = projections
            if self.has_global_projections:
                layers = (self.global_q_proj, self.global_k_proj, self.global_v_proj)
                global_projections = self._project_heads(hidden_states, *layers)
        if not self.has_relative_positions:
            return AttentionStates(query, None, key, value, None, global_projections)
        query_u, query_v = query + self.bias_u[:, None], query + self.bias_v[:, None]
        position_key = self._position_key(position_embeddings)
        return AttentionStates(query_u, query_v, key, value, position_key, global_projections)

    def _prefers_bfloat16(self, hidden_states: torch.Tensor) -> bool:
        """True next to 8-bit projections, as products in float32 would take most of the time of a long clip."""
        if is_reference(self.config) or self.config.has_local_attention or not HAS_BFLOAT16_PRODUCTS:
            return False
        return multiplies_in_8_bits(self.q_proj, hidden_states)

    def _attend_clips(
        self, states: AttentionStates, mask: FrameMask, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend within each clip: one to a row or, in a packed row, several one after another."""
        if mask.spans is None:
            return self.attend(states, mask, output_attentions)
        context = torch.zeros_like(states.value)
        for start, stop in mask.spans:
            clip_states = states.take_clip(start, stop, self.config.has_local_attention)
            context[:, :, start:stop], _ = self.attend(clip_states, FrameMask(stop - start, mask.window), False)
        return context, None

    def _project_heads(self, hidden_states: torch.Tensor, *layers: nn.Module) -> Projections:
        """Query, key and value, each (batch, heads, frames, head_dim)."""
        apply = call_linears if is_reference(self.config) else apply_linears
        query, key, value = map(self._split_heads, apply(layers, hidden_states))
        return query, key, value

    def _project(self, layer: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        return choose_linear(self.config)(layer, hidden_states)

    def _position_key(self, position_embeddings: torch.Tensor) -> torch.Tensor:
        """The distances as keys: (positions, hidden_size) to (1, heads, positions, head_dim)."""
        if not self._keeps_position_keys(position_embeddings):
            return self.project_distances(position_embeddings)
        layer = self.relative_k_proj
        keys = _kept_position_keys.get(layer, (layer.weight,), lambda: self._build_kept_position_keys(layer.weight))
        num_positions = position_embeddings.shape[0]
        first = KEPT_FRAMES - (num_positions + 1) // 2
        return keys[:, :, first : first + num_positions]

    def _project_positions(self, position_embeddings: torch.Tensor) -> torch.Tensor:
        if is_reference(self.config):
            return self._project(self.relative_k_proj, position_embeddings)
        # Kept keys are made from floating weights, so that these are stored next to projections in 8 bits.
        return apply_linear_like(self.q_proj, self.relative_k_proj, position_embeddings)

    def _keeps_position_keys(self, position_embeddings: torch.Tensor) -> bool:
        num_positions, layer = position_embeddings.shape[0], self.relative_k_proj
        if not is_loop_over_frames_allowed(num_positions) or num_positions >= 2 * KEPT_FRAMES:
            return False
        if is_reference(self.config) or self.config.has_local_attention or self.training:
            return False
        return (
            type(layer) is nn.Linear  # before anything of it is read: what others put in its place may lack it
            and is_as_built(layer)
            and layer.weight.device.type == "cpu"  # a GPU would have to be asked whether the weights have changed
            and is_inference(position_embeddings, layer.weight)
        )

    # What inference mode makes could not stand next to gradients later.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _build_kept_position_keys(self, weight: torch.Tensor) -> torch.Tensor:
        """The distances of a clip of `KEPT_FRAMES` as keys: (1, heads, positions, head_dim)."""
        table = sinusoids(relative_positions(KEPT_FRAMES, weight.device), self.config.hidden_size, weight.dtype)
        return self._split_heads(nn.functional.linear(table, weight)[None]).contiguous()

    def attend(
        self, states: AttentionStates, mask: FrameMask, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context (batch, heads, frames, head_dim) of clips of equal length, and in the plain form probabilities."""
        dropout = self.config.attention_dropout if self.training else 0.0
        is_plain = output_attentions or is_reference(self.config)
        if self.config.has_local_attention:
            return self._attend_locally(states, mask.padding_mask, dropout, is_plain)
        query, query_v, key, value, position_key, _ = states
        if is_plain:
            rows = mask.rows(slice(None), slice(None), key.device)
            return eager_attention(query, query_v, key, value, position_key, rows, dropout)
        return sdpa_attention(query, query_v, key, value, position_key, mask, dropout), None

    def _attend_locally(
        self, states: AttentionStates, padding_mask: torch.Tensor | None, dropout: float, is_plain: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, query_v, key, value, position_key, global_projections = states
        assert query_v is not None
        assert position_key is not None
        global_tokens = None
        if global_projections is not None:
            counts = (self.config.num_global_tokens, self.config.global_tokens_spacing)
            global_tokens = select_global_tokens(global_projections, *counts, padding_mask)
        left_frames, right_frames = self.config.attention_context
        window = (left_frames, right_frames)
        parts = (query, query_v, key, value, position_key, window, padding_mask, global_tokens, dropout)
        return eager_local_attention(*parts) if is_plain else (blocked_local_attention(*parts), None)
