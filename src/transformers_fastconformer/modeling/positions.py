"""Position embeddings: sinusoids of distances (Dai et al., 2019, section 3.3) or of places."""

from __future__ import annotations

import math

import torch

from ..configuration_fastconformer import FastConformerConfig
from .local_attention import local_distances


def sinusoids(positions: torch.Tensor, hidden_size: int, dtype: torch.dtype) -> torch.Tensor:
    """
    Sinusoidal embedding of positions, computed in float32: (positions,) to (positions, hidden_size).

    Sines in the even columns, cosines in the odd ones, as in NeMo's `PositionalEncoding.create_pe`.
    """
    exponents = torch.arange(0, hidden_size, 2, dtype=torch.float32, device=positions.device)
    frequencies = torch.exp(exponents * -(math.log(10000.0) / hidden_size))
    angles = positions.to(torch.float32)[:, None] * frequencies  # (positions, hidden_size / 2)
    table = torch.empty(positions.shape[0], hidden_size, dtype=torch.float32, device=positions.device)
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
    if not config.has_relative_positions:
        return sinusoids(torch.arange(num_frames, device=device), size, dtype)
    if not config.has_local_attention:
        return sinusoids(relative_positions(num_frames, device), size, dtype)
    left_frames, right_frames = config.attention_context
    distances, has_term = local_distances(left_frames, right_frames, device)
    return sinusoids(distances, size, dtype).masked_fill(~has_term[:, None], 0.0)
