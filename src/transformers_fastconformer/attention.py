"""
Self-attention of the encoder: Transformer-XL relative positions (Dai et al., 2019, section 3.3) or plain.

Two forms of the same numbers: `eager_attention` is the plain one, with the whole score matrix; `sdpa_attention` forms
the position term for a block of queries at a time, so that memory grows linearly with the number of frames.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .configuration_fastconformer import FastConformerConfig

# Queries in a block of `sdpa_attention`. The scores of one block are (batch, heads, block, frames).
QUERY_BLOCK_FRAMES = 512


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


def sdpa_attention(
    query_u: torch.Tensor,
    query_v: torch.Tensor | None,
    key: torch.Tensor,
    value: torch.Tensor,
    position_key: torch.Tensor | None,
    mask: torch.Tensor | None,
    dropout: float,
    block_frames: int = QUERY_BLOCK_FRAMES,
) -> torch.Tensor:
    """
    The same as `eager_attention`, one `scaled_dot_product_attention` for each block of queries.

    A block of q queries needs only `frames + q - 1` distances, so that nothing of size frames x frames exists.
    """
    num_frames = key.shape[-2]
    scale = 1.0 / math.sqrt(query_u.shape[-1])
    outputs = []
    for start in range(0, num_frames, block_frames):
        stop = min(start + block_frames, num_frames)
        block_mask = None if mask is None else mask[..., start:stop, :] if mask.shape[-2] > 1 else mask
        bias = block_mask
        if query_v is not None and position_key is not None:
            distances = position_key[..., num_frames - stop : 2 * num_frames - 1 - start, :]
            position_scores = torch.matmul(query_v[..., start:stop, :] * scale, distances.transpose(-2, -1))
            bias = relative_shift(position_scores, num_frames)  # (batch, heads, block, frames)
            if block_mask is not None:
                bias = bias.masked_fill(~block_mask, torch.finfo(bias.dtype).min)
        output = nn.functional.scaled_dot_product_attention(
            query_u[..., start:stop, :], key, value, attn_mask=bias, dropout_p=dropout, scale=scale
        )
        if block_mask is not None:
            output = output.masked_fill(~block_mask.any(dim=-1, keepdim=True), 0.0)
        outputs.append(output)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2)


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

    def _split_heads(self, projected: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden_size) to (batch, heads, frames, head_dim)."""
        return projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: (batch, frames, hidden_size).
            position_embeddings: (2 * frames - 1, hidden_size), sinusoids of `relative_positions`.
            attention_mask: Boolean (batch or 1, 1, query or 1, key), True means look; or None.
            output_attentions: Return the probabilities, which takes the plain form.

        Returns:
            (batch, frames, hidden_size), and (batch, heads, query, key) or None.
        """
        query = self._split_heads(self.q_proj(hidden_states))
        key = self._split_heads(self.k_proj(hidden_states))
        value = self._split_heads(self.v_proj(hidden_states))
        query_v, position_key = None, None
        if self.has_relative_positions:
            query_v = query + self.bias_v[:, None]
            query = query + self.bias_u[:, None]
            position_key = self._split_heads(self.relative_k_proj(position_embeddings)[None])
        dropout = self.config.attention_dropout if self.training else 0.0
        probabilities = None
        if output_attentions or self.config._attn_implementation == "eager":
            context, probabilities = eager_attention(query, query_v, key, value, position_key, attention_mask, dropout)
        else:
            context = sdpa_attention(query, query_v, key, value, position_key, attention_mask, dropout)
        output = self.o_proj(context.transpose(1, 2).flatten(-2))  # (batch, frames, hidden_size)
        return output, probabilities if output_attentions else None
