"""State of live streams in one block of the encoder, as the block's modules see it during a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .ring_attention import RingStep


@dataclass(frozen=True)
class StreamLayer:
    """
    The part of a cache that belongs to a block, and the places of a step in it. Its tensors are changed in place.

    Args:
        keys, values: (rows, heads, slots, head_dim), rings of the block.
        convolutions: (rows, left frames, hidden_size), frames that the convolution sees before the newest.
        position_key: (1, heads, distances, head_dim), distances as keys.
        ring: Places of the step in the rings.
        padding_mask: (streams, frames), True for frames of a stream; None when all are.
        kept_frames: Frames of each stream after which the next step begins, so that the convolution's left frames end
            there; one number where all are the same.
    """

    keys: torch.Tensor
    values: torch.Tensor
    convolutions: torch.Tensor
    position_key: torch.Tensor
    ring: RingStep
    padding_mask: torch.Tensor | None
    kept_frames: int | Sequence[int]

    def extend(self, hidden_states: torch.Tensor, right_frames: int) -> torch.Tensor:
        """
        Put the frames before the newest in front of them and zeros after them, and keep those that come before the
        next step.

        Args:
            hidden_states: (streams, frames, hidden_size).
            right_frames: Zeros after the frames.

        Returns:
            (streams, left frames + frames + right frames, hidden_size)
        """
        rows = self.ring.rows
        left = self.convolutions if rows is None else self.convolutions[rows]
        extended = torch.cat([left.to(hidden_states.dtype), hidden_states], dim=1)
        if right_frames > 0:
            extended = torch.nn.functional.pad(extended, (0, 0, 0, right_frames))
        num_left = self.convolutions.shape[1]
        if isinstance(self.kept_frames, int):
            kept = extended[:, self.kept_frames : self.kept_frames + num_left]
        else:
            starts = zip(extended, self.kept_frames, strict=True)
            kept = torch.stack([stream[start : start + num_left] for stream, start in starts])
        if rows is None:
            self.convolutions.copy_(kept)
        else:
            self.convolutions[rows] = kept.to(self.convolutions.dtype)
        return extended
