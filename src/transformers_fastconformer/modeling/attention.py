"""
Self-attention of the encoder: Transformer-XL relative positions (Dai et al., 2019, section 3.3) or plain.

Two forms of the same numbers: `eager_attention` is the plain one, with the whole score matrix; `sdpa_attention` forms
the position term for a block of queries at a time, so that memory grows linearly with the number of frames. The
sliding window of `position_embedding_type="rel_pos_local_attn"` has a file of its own, `modeling/local_attention.py`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig
from ..kernels.layers import (
    HAS_BFLOAT16_PRODUCTS,
    choose_linear,
    is_as_built,
    is_inference,
    is_reference,
    multiplies_in_8_bits,
)
from ..kernels.parameter_cache import ParameterCache
from .local_attention import (
    blocked_local_attention,
    eager_local_attention,
    local_distances,
    select_global_tokens,
)
from .masking import ContextWindow, FrameMask, is_loop_over_frames_allowed

# Queries in a block of `sdpa_attention` and scores of one, (batch, heads, block, keys), both at most. On a CPU a block
# that fits its caches is also the fastest; a GPU wants few large ones.
CPU_BLOCK = (256, 1 << 24)
GPU_BLOCK = (4096, 1 << 27)
# Queries in a block at least: where few keys are seen, and where very many are.
SMALLEST_BLOCK_FRAMES = 128
FEWEST_BLOCK_FRAMES = 32
# Distances as keys depend on the weights alone, and those of a short clip are among those of a longer one. They are
# kept for clips of so many frames (30 s at a subsampling of 8), where they are 7 % of what a clip alone costs; they
# take 3 % of the memory of the weights.
KEPT_FRAMES = 376
_kept_position_keys: ParameterCache[torch.Tensor] = ParameterCache()


def sinusoids(positions: torch.Tensor, hidden_size: int, dtype: torch.dtype) -> torch.Tensor:
    """
    Sinusoidal embedding of positions, computed in float32: (positions,) to (positions, hidden_size).

    Sines in the even columns, cosines in the odd ones, as in NeMo's `PositionalEncoding.create_pe`.
    """
    exponents = torch.arange(0, hidden_size, 2, dtype=torch.float32, device=positions.device)
    frequencies = torch.exp(exponents * -(math.log(10000.0) / hidden_size))
    angles = positions.to(torch.float32)[:, None] * frequencies  # (positions, hidden_size / 2)
    table = torch.empty(positions.shape[0], hidden_size, device=positions.device)
    table[:, 0::2] = torch.sin(angles)
    table[:, 1::2] = torch.cos(angles)[:, : hidden_size // 2]
    return table.to(dtype)


def relative_positions(num_frames: int, device: torch.device) -> torch.Tensor:
    """Distances from `num_frames - 1` (a key far to the left) down to `1 - num_frames`: (2 * frames - 1,)."""
    return torch.arange(num_frames - 1, -num_frames, -1, device=device)


def build_position_table(
    config: FastConformerConfig, num_frames: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """
    The sinusoids that the blocks share: (positions, hidden_size).

    `rel_pos`: `2 * frames - 1` distances. `rel_pos_local_attn`: one for each key of the window, whatever the number of
    frames. `abs_pos`: one for each frame, to be added to the input.
    """
    size = config.hidden_size
    if config.position_embedding_type == "abs_pos":
        return sinusoids(torch.arange(num_frames, device=device), size, dtype)
    if config.position_embedding_type == "rel_pos":
        return sinusoids(relative_positions(num_frames, device), size, dtype)
    left_frames, right_frames = config.attention_context
    distances, has_term = local_distances(left_frames, right_frames, device)
    return sinusoids(distances, size, dtype).masked_fill(~has_term[:, None], 0.0)


def relative_shift(scores: torch.Tensor, num_keys: int) -> torch.Tensor:
    """
    Turn scores over distances into scores over keys, as a view.

    Row r of a block of q queries needs the distances that start q - 1 - r places into the slice of the block.

    Args:
        scores: (..., q, num_keys + q - 1), contiguous; column c stands for the distance of the last query of the block
            to key c.

    Returns:
        (..., q, num_keys)
    """
    num_queries, num_distances = scores.shape[-2:]
    if num_queries == 1:
        return scores
    flat = scores.flatten(-2)[..., num_queries - 1 : num_queries - 1 + num_queries * (num_distances - 1)]
    return flat.unflatten(-1, (num_queries, num_distances - 1))[..., :num_keys]


def eager_attention(
    query_u: torch.Tensor,
    query_v: torch.Tensor | None,
    key: torch.Tensor,
    value: torch.Tensor,
    position_key: torch.Tensor | None,
    mask: torch.Tensor | None,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The plain form, operation by operation as NeMo 3.0's `RelPositionMultiHeadAttention` without SDPA.

    Args:
        query_u, query_v: (batch, heads, frames, head_dim), queries plus the content bias and plus the position bias.
        key, value: (batch, heads, frames, head_dim).
        position_key: (1, heads, 2 * frames - 1, head_dim), or None for attention without relative positions.
        mask: Boolean, broadcasts to (batch, heads, query, key); or None.
        dropout: Share of the probabilities set to zero.

    Returns:
        (batch, heads, frames, head_dim) and the probabilities (batch, heads, query, key).
    """
    scores = torch.matmul(query_u, key.transpose(-2, -1))  # (batch, heads, query, key)
    if query_v is not None and position_key is not None:
        position_scores = torch.matmul(query_v, position_key.transpose(-2, -1))  # (batch, heads, query, distances)
        scores = scores + relative_shift(position_scores, key.shape[-2])
    scores = scores / math.sqrt(query_u.shape[-1])
    if mask is not None:
        # NeMo fills with -10000, which is the same after the softmax except for scores beyond it; a query without
        # any key gets zeros, as in NeMo.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    probabilities = torch.softmax(scores, dim=-1)
    if mask is not None:
        probabilities = probabilities.masked_fill(~mask, 0.0)
    dropped = nn.functional.dropout(probabilities, dropout) if dropout > 0 else probabilities
    return torch.matmul(dropped, value), probabilities


def choose_block_frames(num_scores_per_query: int, seen_frames: int | None, device_type: str) -> int:
    """
    Queries in a block of `sdpa_attention`.

    Args:
        num_scores_per_query: Scores of one query: clips x heads x keys that it sees.
        seen_frames: Keys that a query sees at most; None for no limit.
        device_type: A GPU is given larger blocks.
    """
    most_frames, most_scores = CPU_BLOCK if device_type == "cpu" else GPU_BLOCK
    if seen_frames is not None:
        # A block sees the keys of its own frames too: with a narrow context a large one would see mostly those.
        most_frames = min(max(seen_frames, SMALLEST_BLOCK_FRAMES), most_frames)
    block_frames = most_scores // max(num_scores_per_query, 1)
    return min(max(block_frames // 16 * 16, FEWEST_BLOCK_FRAMES), most_frames)


def sdpa_attention(
    query_u: torch.Tensor,
    query_v: torch.Tensor | None,
    key: torch.Tensor,
    value: torch.Tensor,
    position_key: torch.Tensor | None,
    mask: FrameMask,
    dropout: float,
    block_frames: int | None = None,
) -> torch.Tensor:
    """
    The same as `eager_attention`, one `scaled_dot_product_attention` for each block of queries.

    A block of q queries and the k keys that it may see needs only `k + q - 1` distances, so that nothing of size
    frames x frames exists; with a limited context the time is linear in the number of frames, too. A compiled graph
    without gradients calls this as one operation; one with gradients, or exported, has one block, whatever the number
    of frames.
    """
    num_frames = key.shape[-2]
    if (
        query_v is not None
        and position_key is not None
        and dropout == 0.0
        and _is_one_operation(query_u, key, position_key)
    ):
        window = (mask.window.chunk_frames, mask.window.left_frames, mask.window.right_frames)
        return blocked_attention(query_u, query_v, key, value, position_key, mask.padding_mask, *window)
    scale = 1.0 / math.sqrt(query_u.shape[-1])
    blocks = [(0, num_frames, 0, num_frames)]
    if is_loop_over_frames_allowed(num_frames):
        if block_frames is None:
            seen_frames = mask.window.num_frames
            scores = key.shape[0] * key.shape[1] * min(num_frames, seen_frames or num_frames)
            block_frames = choose_block_frames(scores, seen_frames, key.device.type)
        if num_frames > block_frames:
            starts = range(0, num_frames, block_frames)
            stops = [min(start + block_frames, num_frames) for start in starts]
            blocks = [(start, stop, *mask.key_range(start, stop)) for start, stop in zip(starts, stops, strict=True)]
    with_products = dropout == 0.0 and query_v is not None and _has_fast_products(query_u)
    if with_products:
        # A product of 16 bits first copies what is not dense, rows much faster than columns.
        key, value = key.contiguous(), value.contiguous()
        position_key = None if position_key is None else position_key.contiguous()

    def attend(start: int, stop: int, key_start: int, key_stop: int) -> torch.Tensor:
        """One block of queries and the keys that it sees: (batch, heads, block, head_dim)."""
        block_mask = mask.rows(slice(start, stop), slice(key_start, key_stop), key.device)
        block_query = query_u[..., start:stop, :]
        block_key, block_value = key[..., key_start:key_stop, :], value[..., key_start:key_stop, :]
        bias = block_mask
        if query_v is not None and position_key is not None:
            distances = position_key[..., num_frames - stop + key_start : num_frames - 1 - start + key_stop, :]
            if with_products:
                distances, block_key = distances.contiguous(), block_key.contiguous()
            position_scores = torch.matmul(query_v[..., start:stop, :] * scale, distances.transpose(-2, -1))
            bias = relative_shift(position_scores, key_stop - key_start)  # (batch, heads, block, keys)
            if block_mask is not None:
                lowest = torch.finfo(bias.dtype).min
                if bias.requires_grad:
                    bias = bias.masked_fill(~block_mask, lowest)
                else:
                    bias.masked_fill_(~block_mask, lowest)
        if with_products:
            assert bias is not None
            output = _attend_by_products(block_query * scale, block_key, block_value, bias)
        else:
            output = nn.functional.scaled_dot_product_attention(
                block_query, block_key, block_value, attn_mask=bias, dropout_p=dropout, scale=scale
            )
        if block_mask is not None:
            output = output.masked_fill(~block_mask.any(dim=-1, keepdim=True), 0.0)
        return output

    if len(blocks) == 1:
        return attend(*blocks[0])
    # Frames before heads in memory, as the output projection reads them.
    if torch.is_grad_enabled():
        return torch.cat([attend(*block).transpose(1, 2) for block in blocks], dim=1).transpose(1, 2)
    # Into one tensor: outputs that stay, among scores that do not, would leave holes too small for the next scores.
    context = value.new_empty(value.shape[0], num_frames, value.shape[1], value.shape[3])
    for block in blocks:
        context[:, block[0] : block[1]] = attend(*block).transpose(1, 2)
    return context.transpose(1, 2)


def _is_one_operation(*states: torch.Tensor | None) -> bool:
    """Whether a graph is being compiled that may call Python, and whose gradients nobody wants; not under autocast."""
    is_exporting = getattr(torch.compiler, "is_exporting", None)  # torch before 2.7 cannot tell
    return (
        torch.compiler.is_compiling()
        and torch.compiler.is_dynamo_compiling()
        and is_exporting is not None
        and not is_exporting()
        and not torch.is_grad_enabled()
        and len({part.dtype for part in states if part is not None}) == 1
    )


@torch.library.custom_op(
    "transformers_fastconformer::blocked_attention",
    mutates_args=(),
    schema="(Tensor query_u, Tensor query_v, Tensor key, Tensor value, Tensor position_key, Tensor? padding_mask, "
    "SymInt chunk_frames, SymInt? left_frames, SymInt? right_frames) -> Tensor",
)
def blocked_attention(
    query_u: torch.Tensor,
    query_v: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position_key: torch.Tensor,
    padding_mask: torch.Tensor | None,
    chunk_frames: int,
    left_frames: int | None,
    right_frames: int | None,
) -> torch.Tensor:
    """`sdpa_attention` without dropout as one operation of torch, so that a graph need not follow its loop."""
    window = ContextWindow(chunk_frames, left_frames, right_frames)
    mask = FrameMask(key.shape[-2], window, padding_mask)
    output = sdpa_attention(query_u, query_v, key, value, position_key, mask, 0.0)
    return output.contiguous()


@blocked_attention.register_fake
def _(query_u: torch.Tensor, *others: object) -> torch.Tensor:
    return query_u.new_empty(query_u.shape)


def _has_fast_products(states: torch.Tensor) -> bool:
    """
    Whether matrix products one by one take less time than torch's fused attention: on a CPU in 16 bits, where that
    computes at the rate of 32.
    """
    is_fast = HAS_BFLOAT16_PRODUCTS and states.device.type == "cpu" and states.dtype == torch.bfloat16
    return is_fast and is_inference(states)


def _attend_by_products(
    scaled_query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Attention as two matrix products and a softmax; all (batch, heads, ...), `bias` (batch, heads, query, key)."""
    clips_and_heads = scaled_query.shape[:2]
    scores = torch.baddbmm(
        bias.flatten(0, 1), scaled_query.flatten(0, 1), key.flatten(0, 1).transpose(-2, -1)
    )  # (batch * heads, query, key)
    probabilities = torch.softmax(scores, dim=-1)
    return torch.bmm(probabilities, value.flatten(0, 1)).unflatten(0, clips_and_heads)


Projections = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class AttentionStates(NamedTuple):
    """
    What attention is computed from.

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
        self.has_relative_positions = config.position_embedding_type != "abs_pos"
        if self.has_relative_positions:
            self.relative_k_proj = nn.Linear(size, size, bias=False)
            self.bias_u = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
            self.bias_v = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
        self.has_global_projections = self.is_local and config.global_attention_separate
        if self.has_global_projections:
            self.global_q_proj = nn.Linear(size, size, bias=bias)
            self.global_k_proj = nn.Linear(size, size, bias=bias)
            self.global_v_proj = nn.Linear(size, size, bias=bias)

    @property
    def is_local(self) -> bool:
        """Whether attention goes by a sliding window; may change while the model lives, the weights are the same."""
        return self.config.position_embedding_type == "rel_pos_local_attn"

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
            mask: What the queries may look at.
            output_attentions: Return the probabilities, which takes the plain form.

        Returns:
            (batch, frames, hidden_size), and the probabilities (batch, heads, query, key), with global tokens
            (batch, heads, query, tokens + key), or None.
        """
        query = self._split_heads(self._project(self.q_proj, hidden_states))
        key = self._split_heads(self._project(self.k_proj, hidden_states))
        value = self._split_heads(self._project(self.v_proj, hidden_states))
        global_projections = None
        if self.is_local and self.config.num_global_tokens > 0:
            global_projections = self._project_global(hidden_states, (query, key, value))
        query_v, position_key = None, None
        if self.has_relative_positions:
            query_v = query + self.bias_v[:, None]
            query = query + self.bias_u[:, None]
            position_key = self._position_key(position_embeddings)
        states = AttentionStates(query, query_v, key, value, position_key, global_projections)
        has_int8_projections = not is_reference(self.config) and multiplies_in_8_bits(self.q_proj, hidden_states)
        if has_int8_projections and HAS_BFLOAT16_PRODUCTS and not (self.is_local or output_attentions):
            # Beside 8-bit projections products in float32 would take most of the time of a long clip.
            states = states.to(torch.bfloat16)
        probabilities = None
        if mask.spans is None:
            context, probabilities = self._attend(states, mask, output_attentions)
        else:
            context = torch.zeros_like(states.value)
            for start, stop in mask.spans:
                clip_mask = FrameMask(stop - start, mask.window)
                clip_states = states.take_clip(start, stop, self.is_local)
                context[:, :, start:stop], _ = self._attend(clip_states, clip_mask, False)
        context = context.to(value.dtype)
        output = self._project(self.o_proj, context.transpose(1, 2).flatten(-2))  # (batch, frames, hidden_size)
        return output, probabilities if output_attentions else None

    def _project(self, layer: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        return choose_linear(self.config)(layer, hidden_states)

    def _position_key(self, position_embeddings: torch.Tensor) -> torch.Tensor:
        """The distances as keys: (positions, hidden_size) to (1, heads, positions, head_dim)."""
        num_positions = position_embeddings.shape[0]
        weight: Any = self.relative_k_proj.weight
        is_kept = (
            is_loop_over_frames_allowed(num_positions)
            and not (is_reference(self.config) or self.is_local or self.training)
            and num_positions < 2 * KEPT_FRAMES
            and weight.device.type == "cpu"  # a GPU would have to be asked whether the weights have changed
            and type(self.relative_k_proj) is nn.Linear
            and is_as_built(self.relative_k_proj)
            and is_inference(position_embeddings, weight)
        )
        if not is_kept:
            return self._split_heads(self._project(self.relative_k_proj, position_embeddings)[None])
        keys = _kept_position_keys.get(self.relative_k_proj, (weight,), lambda: self._build_kept_position_keys(weight))
        first = KEPT_FRAMES - (num_positions + 1) // 2
        return keys[:, :, first : first + num_positions]

    # What inference mode makes could not stand beside gradients later.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _build_kept_position_keys(self, weight: torch.Tensor) -> torch.Tensor:
        """The distances of a clip of `KEPT_FRAMES` as keys: (1, heads, positions, head_dim)."""
        table = sinusoids(relative_positions(KEPT_FRAMES, weight.device), self.config.hidden_size, weight.dtype)
        return self._split_heads(nn.functional.linear(table, weight)[None]).contiguous()

    def _attend(
        self, states: AttentionStates, mask: FrameMask, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context (batch, heads, frames, head_dim) of clips of equal length, and in the plain form probabilities."""
        query, query_v, key, value, position_key, global_projections = states
        dropout = self.config.attention_dropout if self.training else 0.0
        is_plain = output_attentions or is_reference(self.config)
        if self.is_local:
            assert query_v is not None
            assert position_key is not None
            global_tokens = None
            if global_projections is not None:
                global_tokens = select_global_tokens(
                    global_projections,
                    self.config.num_global_tokens,
                    self.config.global_tokens_spacing,
                    mask.padding_mask,
                )
            window = (self.config.attention_context[0], self.config.attention_context[1])
            parts = (query, query_v, key, value, position_key, window, mask.padding_mask, global_tokens, dropout)
            if is_plain:
                return eager_local_attention(*parts)
            return blocked_local_attention(*parts), None
        if is_plain:
            rows = mask.rows(slice(None), slice(None), key.device)
            return eager_attention(query, query_v, key, value, position_key, rows, dropout)
        return sdpa_attention(query, query_v, key, value, position_key, mask, dropout), None

    def _project_global(self, hidden_states: torch.Tensor, projections: Projections) -> Projections:
        """Query, key and value of global tokens: of layers of their own, or those that are there."""
        if not self.has_global_projections:
            return projections
        return (
            self._split_heads(self._project(self.global_q_proj, hidden_states)),
            self._split_heads(self._project(self.global_k_proj, hidden_states)),
            self._split_heads(self._project(self.global_v_proj, hidden_states)),
        )
