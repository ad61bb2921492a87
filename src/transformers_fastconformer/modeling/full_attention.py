"""
Self-attention to all frames, or to those of a window around the query (a band, chunks): relative positions of
Transformer-XL (Dai et al., 2019, section 3.3), or none.

Two forms of the same numbers: `eager_attention` is the plain one, with the whole score matrix; `sdpa_attention` forms
the position term for a block of queries at a time, so that memory grows linearly with the number of frames.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from ..kernels.layers import HAS_BFLOAT16_PRODUCTS, is_inference
from .masking import ContextWindow, FrameMask, is_loop_over_frames_allowed

# Queries in a block of `sdpa_attention` and scores of one, (batch, heads, block, keys), both at most. On a CPU a block
# that fits its caches is also the fastest; a GPU wants few large ones.
CPU_BLOCK = (256, 1 << 24)
GPU_BLOCK = (4096, 1 << 27)
# Queries in a block at least: where few keys are seen, and where very many are.
MIN_LIMITED_BLOCK_FRAMES = 128
MIN_BLOCK_FRAMES = 32


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
    max_frames, max_scores = CPU_BLOCK if device_type == "cpu" else GPU_BLOCK
    if seen_frames is not None:
        # A block sees the keys of its own frames too: with a narrow context a large one would see mostly those.
        max_frames = min(max(seen_frames, MIN_LIMITED_BLOCK_FRAMES), max_frames)
    block_frames = max_scores // max(num_scores_per_query, 1)
    return min(max(block_frames // 16 * 16, MIN_BLOCK_FRAMES), max_frames)


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
    if (
        query_v is not None
        and position_key is not None
        and dropout == 0.0
        and _is_one_operation(query_u, key, position_key)
    ):
        window = (mask.window.chunk_frames, mask.window.left_frames, mask.window.right_frames)
        return blocked_attention(query_u, query_v, key, value, position_key, mask.padding_mask, *window)
    has_products = dropout == 0.0 and query_v is not None and _has_fast_products(query_u)
    kind = _ProductAttention if has_products else _BlockAttention
    attention = kind(query_u, query_v, key, value, position_key, mask, dropout)
    blocks = _split_queries(key, mask, block_frames)
    if len(blocks) == 1:
        return attention.attend(blocks[0])
    # Frames before heads in memory, as the output projection reads them.
    if torch.is_grad_enabled():
        return torch.cat([attention.attend(block).transpose(1, 2) for block in blocks], dim=1).transpose(1, 2)
    # Into one tensor: outputs that stay, among scores that do not, would leave holes too small for the next scores.
    context = value.new_empty(value.shape[0], key.shape[-2], value.shape[1], value.shape[3])
    for block in blocks:
        context[:, block.start : block.stop] = attention.attend(block).transpose(1, 2)
    return context.transpose(1, 2)


class _Block(NamedTuple):
    """Queries `start` to before `stop`, and the keys that they see."""

    start: int
    stop: int
    key_start: int
    key_stop: int


def _split_queries(key: torch.Tensor, mask: FrameMask, block_frames: int | None) -> list[_Block]:
    """The blocks of all queries; one in graphs."""
    num_frames = key.shape[-2]
    whole = [_Block(0, num_frames, 0, num_frames)]
    if not is_loop_over_frames_allowed(num_frames):
        return whole
    if block_frames is None:
        seen_frames = mask.window.num_frames
        num_scores = key.shape[0] * key.shape[1] * min(num_frames, seen_frames or num_frames)
        block_frames = choose_block_frames(num_scores, seen_frames, key.device.type)
    if num_frames <= block_frames:
        return whole
    starts = range(0, num_frames, block_frames)
    stops = [min(start + block_frames, num_frames) for start in starts]
    return [_Block(start, stop, *mask.key_range(start, stop)) for start, stop in zip(starts, stops, strict=True)]


class _BlockAttention:
    """`eager_attention` for one block of queries at a time, by torch's fused attention; arguments as there."""

    def __init__(
        self,
        query_u: torch.Tensor,
        query_v: torch.Tensor | None,
        key: torch.Tensor,
        value: torch.Tensor,
        position_key: torch.Tensor | None,
        mask: FrameMask,
        dropout: float,
    ) -> None:
        self.query_u, self.query_v = query_u, query_v
        self.key, self.value, self.position_key = key, value, position_key
        self.mask, self.dropout = mask, dropout
        self.scale = 1.0 / math.sqrt(query_u.shape[-1])

    def attend(self, block: _Block) -> torch.Tensor:
        """Output of a block: (batch, heads, block, head_dim)."""
        start, stop, key_start, key_stop = block
        block_mask = self.mask.rows(slice(start, stop), slice(key_start, key_stop), self.key.device)
        bias = block_mask
        if self.query_v is not None and self.position_key is not None:
            bias = self._score_positions(self.query_v, self.position_key, block)
            if block_mask is not None:
                lowest = torch.finfo(bias.dtype).min
                if bias.requires_grad:
                    bias = bias.masked_fill(~block_mask, lowest)
                else:
                    bias.masked_fill_(~block_mask, lowest)
        output = self._attend_with_bias(
            self.query_u[..., start:stop, :],
            self.key[..., key_start:key_stop, :],
            self.value[..., key_start:key_stop, :],
            bias,
        )
        if block_mask is not None:
            output = output.masked_fill(~block_mask.any(dim=-1, keepdim=True), 0.0)
        return output

    def _score_positions(self, query_v: torch.Tensor, position_key: torch.Tensor, block: _Block) -> torch.Tensor:
        """The position term of the scores: (batch, heads, block, keys)."""
        num_frames = self.key.shape[-2]
        first = num_frames - block.stop + block.key_start
        distances = self._as_factor(position_key[..., first : num_frames - 1 - block.start + block.key_stop, :])
        scores = torch.matmul(query_v[..., block.start : block.stop, :] * self.scale, distances.transpose(-2, -1))
        return relative_shift(scores, block.key_stop - block.key_start)

    def _as_factor(self, states: torch.Tensor) -> torch.Tensor:
        """States in the form that a matrix product takes."""
        return states

    def _attend_with_bias(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout, scale=self.scale
        )


class _ProductAttention(_BlockAttention):
    """The same by matrix products and a softmax, see `_has_fast_products`; without dropout, with positions."""

    def __init__(
        self,
        query_u: torch.Tensor,
        query_v: torch.Tensor | None,
        key: torch.Tensor,
        value: torch.Tensor,
        position_key: torch.Tensor | None,
        mask: FrameMask,
        dropout: float,
    ) -> None:
        # A product of 16 bits first copies what is not dense, rows much faster than columns.
        key, value = key.contiguous(), value.contiguous()
        position_key = None if position_key is None else position_key.contiguous()
        super().__init__(query_u, query_v, key, value, position_key, mask, dropout)

    def _as_factor(self, states: torch.Tensor) -> torch.Tensor:
        return states.contiguous()

    def _attend_with_bias(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        assert bias is not None
        clips_and_heads = query.shape[:2]
        scores = torch.baddbmm(
            bias.flatten(0, 1), (query * self.scale).flatten(0, 1), key.contiguous().flatten(0, 1).transpose(-2, -1)
        )  # (batch * heads, query, key)
        probabilities = torch.softmax(scores, dim=-1)
        return torch.bmm(probabilities, value.flatten(0, 1)).unflatten(0, clips_and_heads)


def _is_one_operation(*states: torch.Tensor | None) -> bool:
    """True in a graph being compiled that may call Python and whose gradients nobody wants; not under autocast."""
    # torch before 2.7 lacks it; 2.7 says yes in every graph, which then holds torch's own attention.
    is_exporting = getattr(torch.compiler, "is_exporting", None)
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
    True if matrix products one by one take less time than torch's fused attention: on a CPU in 16 bits, where that
    computes at the rate of 32.
    """
    is_fast = HAS_BFLOAT16_PRODUCTS and states.device.type == "cpu" and states.dtype == torch.bfloat16
    return is_fast and is_inference(states)
