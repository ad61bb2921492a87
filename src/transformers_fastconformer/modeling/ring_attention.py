"""
Attention of a stream's newest frames to those before, whose keys and values lie in a ring.

A ring has as many slots as a step sees frames: those to the left and its own. New frames take the slots of the oldest,
so that nothing is moved. The softmax does not mind the order of the keys; scores of distances are brought into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .masking import ContextWindow


@dataclass(frozen=True)
class RingTables:
    """
    All that depends only on the schedule, made once. The last axis of each table goes twice around the ring, so that
    the table of any place of the newest frames is a slice of it.

    Args:
        num_slots: Slots of the ring.
        step_frames: Frames of a step.
        slot_frames: (2 * slots,), frame in each slot, from the first of the step: 0 and above are those of the step.
        distance_index: (step frames, 2 * slots), distance from each frame of the step to each slot, as its place among
            `build_distances`.
        window_mask: (step frames, 2 * slots), True where attention may look; None for everywhere.
    """

    num_slots: int
    step_frames: int
    slot_frames: torch.Tensor
    distance_index: torch.Tensor
    window_mask: torch.Tensor | None

    @classmethod
    def build(cls, window: ContextWindow, left_frames: int, step_frames: int, device: torch.device) -> RingTables:
        """Make the tables for steps of so many frames with so many before them."""
        num_slots = left_frames + step_frames
        slot = torch.arange(num_slots, device=device)
        slot_frames = torch.where(slot < step_frames, slot, slot - num_slots)
        query = torch.arange(step_frames, device=device)
        distance_index = num_slots - 1 - query[:, None] + slot_frames
        window_mask = window.build_mask(query, slot_frames)
        return cls(
            num_slots,
            step_frames,
            slot_frames.repeat(2),
            distance_index.repeat(1, 2),
            None if bool(window_mask.all()) else window_mask.repeat(1, 2),
        )

    def build_distances(self) -> torch.Tensor:
        """All distances from a query to a key, the largest first: (slots + step frames - 1,)."""
        return torch.arange(self.num_slots - 1, -self.step_frames, -1, device=self.slot_frames.device)

    def locate(
        self, rows: torch.Tensor | None, known_frames: Sequence[int], new_frames: Sequence[int], num_frames: int
    ) -> RingStep:
        """
        The places of a step in the rings of some streams.

        Args:
            rows: (streams,), which rows of the rings these are; None for all of them, in order.
            known_frames: Frames that each stream has put into its ring so far.
            new_frames: Frames that the step has of each stream.
            num_frames: Frames of the step's tensor, the most of these.
        """
        starts = [known % self.num_slots for known in known_frames]
        slot_frames = self._turn(self.slot_frames, starts)  # (streams or 1, slots)
        distance_index = self._turn(self.distance_index[:num_frames], starts)[:, None]
        mask = None
        if self.window_mask is not None:
            mask = self._turn(self.window_mask[:num_frames], starts)[:, None]
        left_frames = self.num_slots - self.step_frames
        if min(known_frames) < left_frames or min(new_frames) < self.step_frames:
            device = slot_frames.device
            # Slots that hold nothing yet, and those after the end of a stream's frames.
            first = torch.tensor(
                [[-min(known, left_frames)] for known in known_frames], dtype=torch.int64, device=device
            )
            stop = torch.tensor([[frames] for frames in new_frames], dtype=torch.int64, device=device)
            is_real = ((slot_frames >= first) & (slot_frames < stop))[:, None, None]  # (streams, 1, 1, slots)
            mask = is_real if mask is None else mask & is_real
        slots: slice | torch.Tensor
        if len(set(starts)) == 1 and starts[0] + num_frames <= self.num_slots:
            slots = slice(starts[0], starts[0] + num_frames)
        else:
            frame = torch.arange(num_frames, device=slot_frames.device)
            slots = (
                torch.tensor(starts, dtype=torch.int64, device=slot_frames.device)[:, None] + frame
            ) % self.num_slots
        return RingStep(rows, slots, distance_index, mask)

    def locate_whole(self, rows: torch.Tensor, known_frames: torch.Tensor) -> RingStep:
        """
        The same for steps of which each stream has all frames, without a look at a value: places are tensors.

        Args:
            rows: (streams,), which rows of the rings these are.
            known_frames: (streams,), int64, frames that each stream has put into its ring so far.
        """
        device = known_frames.device
        starts = known_frames[:, None] % self.num_slots
        turned = self.num_slots - starts + torch.arange(self.num_slots, device=device)  # (streams, slots)
        # (frames, streams, slots) to (streams, 1, frames, slots)
        distance_index = self.distance_index[:, turned].transpose(0, 1)[:, None]
        left_frames = self.num_slots - self.step_frames
        first = -known_frames.clamp(max=left_frames)[:, None]
        mask = (self.slot_frames[turned] >= first)[:, None, None]  # slots that hold something
        if self.window_mask is not None:
            mask = mask & self.window_mask[:, turned].transpose(0, 1)[:, None]
        slots = (starts + torch.arange(self.step_frames, device=device)) % self.num_slots
        return RingStep(rows, slots, distance_index, mask)

    def _turn(self, table: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        """A table for rings whose newest frames start there: (..., 2 * slots) to (streams or 1, ..., slots)."""
        if len(set(starts)) == 1:
            return table[None, ..., self.num_slots - starts[0] : 2 * self.num_slots - starts[0]]
        return torch.stack([table[..., self.num_slots - start : 2 * self.num_slots - start] for start in starts])


@dataclass(frozen=True)
class RingStep:
    """
    Places of a step in the rings, the same for all blocks.

    Args:
        rows: (streams,), or None for all rows of the rings.
        slots: The slots of the step's frames: those of all streams, or (streams, frames).
        distance_index: (streams or 1, 1, frames, slots).
        mask: (streams or 1, 1, frames or 1, slots), True where attention may look; None for everywhere.
    """

    rows: torch.Tensor | None
    slots: slice | torch.Tensor
    distance_index: torch.Tensor
    mask: torch.Tensor | None

    def exchange(self, ring: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """
        Put new keys or values into a ring, in place, and take all that is in it.

        Args:
            ring: (rows, heads, slots, head_dim).
            new: (streams, heads, frames, head_dim).

        Returns:
            (streams, heads, slots, head_dim)
        """
        new = new.to(ring.dtype)
        if isinstance(self.slots, slice):
            if self.rows is None:
                ring[:, :, self.slots] = new
            else:
                ring[self.rows, :, self.slots] = new
        else:
            rows = torch.arange(ring.shape[0], device=ring.device) if self.rows is None else self.rows
            heads = torch.arange(ring.shape[1], device=ring.device)
            ring[rows[:, None, None], heads[:, None], self.slots[:, None]] = new
        return ring if self.rows is None else ring[self.rows]


def ring_attention(
    query_u: torch.Tensor,
    query_v: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position_key: torch.Tensor,
    step: RingStep,
    is_plain: bool,
) -> torch.Tensor:
    """
    Attend to all slots of the rings.

    Args:
        query_u, query_v: (streams, heads, frames, head_dim), queries plus the content bias and plus the position bias.
        key, value: (streams, heads, slots, head_dim).
        position_key: (1, heads, distances, head_dim), see `RingTables.build_distances`.
        step: Places of the step.
        is_plain: Operation by operation, as NeMo does it.

    Returns:
        (streams, heads, frames, head_dim)
    """
    scale = 1.0 / math.sqrt(query_u.shape[-1])
    factor = query_v if is_plain else query_v * scale
    scores = torch.matmul(factor, position_key.transpose(-2, -1))  # (streams, heads, frames, distances)
    bias = scores.gather(-1, step.distance_index.expand(*scores.shape[:3], -1))
    lowest = torch.finfo(bias.dtype).min
    if is_plain:
        scores = (torch.matmul(query_u, key.transpose(-2, -1)) + bias) / math.sqrt(query_u.shape[-1])
        if step.mask is not None:
            scores = scores.masked_fill(~step.mask, lowest)
        return torch.matmul(torch.softmax(scores, dim=-1), value)
    if step.mask is not None:
        bias.masked_fill_(~step.mask, lowest)
    return nn.functional.scaled_dot_product_attention(query_u, key, value, attn_mask=bias, scale=scale)
