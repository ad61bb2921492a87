"""
Self-attention in a sliding window, with global tokens (Beltagy et al., 2020, "Longformer", section 3; in FastConformer
Rekesh et al., 2023, section 2.3).

Two forms of the same numbers: `eager_local_attention` is the plain one, with the whole score matrix;
`blocked_local_attention` sets blocks of queries against the band of keys that they see, linear in time and memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from .masking import is_loop_over_frames_allowed

# Frames whose scores exist at a time in `blocked_local_attention`: what bounds its memory besides input and output.
GROUP_FRAMES = 4096
# Queries in a block at least.
MIN_BLOCK_FRAMES = 32


def local_distances(left_frames: int, right_frames: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The distance whose position embedding stands for each key of the window, in the order of the keys.

    With equal sides these are the distances themselves. With unequal ones NeMo 3.0's
    `RelPositionMultiHeadAttentionLongformer` lines the narrow side up with the far edge of a window of twice the wide
    side, so that a key of the narrow side is given the embedding of a nearer key or, next to the query, none. Models
    were trained so.

    Returns:
        Distances (left + 1 + right,), and which of the keys have an embedding at all.
    """
    wide_frames = max(left_frames, right_frames)
    offset = torch.arange(-left_frames, right_frames + 1, device=device)  # key minus query
    has_left_term = offset < left_frames - wide_frames
    has_right_term = offset >= wide_frames - right_frames
    distance = torch.where(has_left_term, left_frames - wide_frames, wide_frames - right_frames) - offset
    return distance, has_left_term | has_right_term


@dataclass(frozen=True)
class GlobalTokens:
    """
    Frames that see every frame and are seen by every frame, without relative positions.

    Follows NeMo 3.0's `RelPositionMultiHeadAttentionLongformer` for a single clip; see `attend_to_all` for what it
    does with several tokens. A global token inside the window of a query counts twice, as there.

    Args:
        query, key, value: (batch, heads, frames, head_dim), of their own projections or of the shared ones, without
            position biases.
        positions: (tokens,), frame index of each; those beyond a clip's end are ignored.
        is_real: (batch, tokens), whether the clip has that frame.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    positions: torch.Tensor
    is_real: torch.Tensor

    def take(self, states: torch.Tensor) -> torch.Tensor:
        """The rows of the tokens: (batch, heads, frames, head_dim) to (batch, heads, tokens, head_dim)."""
        return states[:, :, self.positions.clamp(max=states.shape[2] - 1)]

    def score_keys(self) -> torch.Tensor:
        """Scores of all queries for the tokens as keys: (batch, heads, frames, tokens)."""
        scores = torch.matmul(self.query / math.sqrt(self.query.shape[-1]), self.take(self.key).transpose(-2, -1))
        return scores.masked_fill(~self.is_real[:, None, None], torch.finfo(scores.dtype).min)

    def attend_to_all(self, padding_mask: torch.Tensor | None, dropout: float) -> torch.Tensor:
        """
        Output of the tokens as queries: (batch, heads, tokens, head_dim).

        NeMo reshapes the queries (tokens, clips, heads) into (clips, heads, tokens) without moving them: with several
        tokens a head is given the query of another head and token, and in a batch even of another clip. What is done
        here is what that comes to for a single clip, which has as many tokens as lie before its end.
        """
        num_heads, num_tokens = self.query.shape[1], self.positions.shape[0]
        queries = self.take(self.query / math.sqrt(self.query.shape[-1])).transpose(1, 2).flatten(1, 2)
        clip_tokens = self.is_real.sum(dim=-1)[:, None, None]  # (batch, 1, 1)
        head = torch.arange(num_heads, device=queries.device)[:, None]
        source = head * clip_tokens + torch.arange(num_tokens, device=queries.device)  # (batch, heads, tokens)
        source = source.flatten(1)[..., None].expand(-1, -1, queries.shape[-1])
        queries = queries.gather(1, source).unflatten(1, (num_heads, num_tokens))
        scores = torch.matmul(queries, self.key.transpose(-2, -1))  # (batch, heads, tokens, frames)
        if padding_mask is not None:
            scores = scores.masked_fill(~padding_mask[:, None, None], torch.finfo(scores.dtype).min)
        probabilities = nn.functional.dropout(torch.softmax(scores, dim=-1), dropout)
        return torch.matmul(probabilities, self.value)

    def overwrite(self, context: torch.Tensor, token_rows: torch.Tensor) -> torch.Tensor:
        """`context` (batch, heads, frames, head_dim) with the tokens' rows in their places."""
        num_frames = context.shape[2]
        # Tokens beyond the clip's end go into a row that is cut off again.
        target = torch.where(self.is_real, self.positions, num_frames)[:, None, :, None].expand_as(token_rows)
        return nn.functional.pad(context, (0, 0, 0, 1)).scatter(2, target, token_rows)[:, :, :num_frames]


def select_global_tokens(
    projections: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    num_tokens: int,
    spacing_frames: int,
    padding_mask: torch.Tensor | None,
) -> GlobalTokens:
    """
    The first of every `spacing_frames` frames, `num_tokens` of them.

    Args:
        projections: Query, key, value, each (batch, heads, frames, head_dim).
        padding_mask: (batch, frames), True for real frames; or None.
    """
    query = projections[0]
    positions = torch.arange(num_tokens, device=query.device) * spacing_frames
    if padding_mask is None:
        is_real = (positions < query.shape[2]).expand(query.shape[0], -1)
    else:
        is_real = positions < padding_mask.sum(dim=-1, keepdim=True)
    return GlobalTokens(*projections, positions=positions, is_real=is_real)


def eager_local_attention(
    query_u: torch.Tensor,
    query_v: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position_key: torch.Tensor,
    context: tuple[int, int],
    padding_mask: torch.Tensor | None,
    global_tokens: GlobalTokens | None,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The plain form: all scores, and a mask for the band.

    Args:
        query_u, query_v: (batch, heads, frames, head_dim), queries plus the content bias and plus the position bias.
        key, value: (batch, heads, frames, head_dim).
        position_key: (1, heads, left + 1 + right, head_dim), in the order of the keys of the window.
        context: Frames seen to the left and to the right.
        padding_mask: (batch, frames), True for real frames; or None.
        global_tokens: Or None.
        dropout: Share of the probabilities set to zero.

    Returns:
        (batch, heads, frames, head_dim), and the probabilities (batch, heads, query, tokens + key): those of the
        global tokens as keys come first.
    """
    left_frames, right_frames = context
    num_frames = key.shape[-2]
    frame = torch.arange(num_frames, device=key.device)
    offset = frame - frame[:, None]  # (query, key)
    mask = ((offset >= -left_frames) & (offset <= right_frames))[None, None]
    if padding_mask is not None:
        mask = mask & padding_mask[:, None, None] & padding_mask[:, None, :, None]
    position_scores = torch.matmul(query_v, position_key.transpose(-2, -1))  # (batch, heads, query, window)
    column = (offset + left_frames).clamp(0, left_frames + right_frames).expand(*query_v.shape[:2], -1, -1)
    scores = torch.matmul(query_u, key.transpose(-2, -1)) + position_scores.gather(-1, column)
    scores = scores / math.sqrt(query_u.shape[-1])
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if global_tokens is not None:
        scores = torch.cat([global_tokens.score_keys(), scores], dim=-1)
        value = torch.cat([global_tokens.take(value), value], dim=-2)
    probabilities = torch.softmax(scores, dim=-1)
    if padding_mask is not None:
        probabilities = probabilities.masked_fill(~padding_mask[:, None, :, None], 0.0)
    output = torch.matmul(nn.functional.dropout(probabilities, dropout), value)
    if global_tokens is not None:
        output = global_tokens.overwrite(output, global_tokens.attend_to_all(padding_mask, dropout))
    return output, probabilities


def blocked_local_attention(
    query_u: torch.Tensor,
    query_v: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position_key: torch.Tensor,
    context: tuple[int, int],
    padding_mask: torch.Tensor | None,
    global_tokens: GlobalTokens | None,
    dropout: float,
    block_frames: int | None = None,
    group_frames: int = GROUP_FRAMES,
) -> torch.Tensor:
    """
    The same as `eager_local_attention`, a block of queries against the band of keys that its queries see.

    Args:
        block_frames: Queries in a block; about half of the window by default.
        group_frames: Queries whose blocks are computed at once.
    """
    num_frames = key.shape[-2]
    if block_frames is None:
        block_frames = max(sum(context) // 2, MIN_BLOCK_FRAMES)
    if padding_mask is None:
        padding_mask = torch.ones(1, num_frames, dtype=torch.bool, device=key.device)
    blocks = _Blocks.split(query_u, query_v, key, value, context, padding_mask, global_tokens, block_frames)
    num_blocks = blocks.query_u.shape[2]
    group_blocks = max(group_frames // block_frames, 1)
    if is_loop_over_frames_allowed(num_blocks) and num_blocks > group_blocks:
        outputs = [
            blocks.attend(slice(start, start + group_blocks), position_key, dropout)
            for start in range(0, num_blocks, group_blocks)
        ]
        output = torch.cat(outputs, dim=2)
    else:
        output = blocks.attend(slice(None), position_key, dropout)
    output = output.flatten(2, 3)[:, :, :num_frames]  # (batch, heads, frames, head_dim)
    output = output.masked_fill(~padding_mask[:, None, :, None], 0.0)
    if global_tokens is not None:
        output = global_tokens.overwrite(output, global_tokens.attend_to_all(padding_mask, dropout))
    return output


@dataclass(frozen=True)
class _Blocks:
    """
    Queries in blocks and, as views, the keys and values of each block's band.

    Args:
        query_u, query_v: (batch, heads, blocks, block, head_dim).
        key, value: (batch, heads, blocks, band, head_dim).
        mask: (batch or 1, blocks, band), True for real frames.
        global_scores: (batch, heads, blocks, block, tokens); or None.
        global_value: (batch, heads, tokens, head_dim); or None.
    """

    query_u: torch.Tensor
    query_v: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor
    global_scores: torch.Tensor | None
    global_value: torch.Tensor | None

    @classmethod
    def split(
        cls,
        query_u: torch.Tensor,
        query_v: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        context: tuple[int, int],
        padding_mask: torch.Tensor,
        global_tokens: GlobalTokens | None,
        block_frames: int,
    ) -> _Blocks:
        """The blocks of what `blocked_local_attention` is given."""
        left_frames, right_frames = context
        num_frames = key.shape[-2]
        num_blocks = (num_frames + block_frames - 1) // block_frames
        filling = num_blocks * block_frames - num_frames
        band_frames = block_frames + left_frames + right_frames
        band_padding = (left_frames, filling + right_frames)

        def split_queries(states: torch.Tensor) -> torch.Tensor:
            padded = nn.functional.pad(states, (0, 0, 0, filling))
            return padded.unflatten(2, (num_blocks, block_frames))

        def find_bands(states: torch.Tensor) -> torch.Tensor:
            padded = nn.functional.pad(states, (0, 0, *band_padding))
            return padded.unfold(2, band_frames, block_frames).transpose(-2, -1)

        return cls(
            query_u=split_queries(query_u),
            query_v=split_queries(query_v),
            key=find_bands(key),
            value=find_bands(value),
            mask=nn.functional.pad(padding_mask, band_padding).unfold(1, band_frames, block_frames),
            global_scores=None if global_tokens is None else split_queries(global_tokens.score_keys()),
            global_value=None if global_tokens is None else global_tokens.take(value),
        )

    def attend(self, chosen: slice, position_key: torch.Tensor, dropout: float) -> torch.Tensor:
        """Output of the chosen blocks: (batch, heads, blocks, block, head_dim)."""
        query_u, query_v = self.query_u[:, :, chosen], self.query_v[:, :, chosen]
        key, value = self.key[:, :, chosen], self.value[:, :, chosen]
        scale = 1.0 / math.sqrt(query_u.shape[-1])
        bias = torch.matmul(query_v * scale, position_key[:, :, None].transpose(-2, -1))  # (..., block, window)
        lowest = torch.finfo(bias.dtype).min
        # Row r moves r places to the right, into the band; what it leaves and does not reach is outside of its window.
        num_rows, num_columns = bias.shape[-2:]
        bias = nn.functional.pad(bias, (0, num_rows), value=lowest).flatten(-2)[..., :-num_rows]
        bias = bias.unflatten(-1, (num_rows, num_columns + num_rows - 1))  # (batch, heads, blocks, block, band)
        bias = bias.masked_fill(~self.mask[:, None, chosen, None], lowest)
        if self.global_scores is not None and self.global_value is not None:
            # Their scores stand only in the bias, next to keys of zeros.
            bias = torch.cat([self.global_scores[:, :, chosen], bias], dim=-1)
            tokens = self.global_value[:, :, None].expand(-1, -1, value.shape[2], -1, -1)
            key = torch.cat([torch.zeros_like(tokens), key], dim=-2)
            value = torch.cat([tokens, value], dim=-2)
        output = nn.functional.scaled_dot_product_attention(
            query_u.flatten(1, 2), key.flatten(1, 2), value.flatten(1, 2), bias.flatten(1, 2), dropout, scale=scale
        )
        return output.unflatten(1, query_u.shape[1:3])
