"""
Forms of a batch between the front of the encoder and its output, with one interface: padded, as it came, or packed,
its clips end to end in one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig
from ..frames import NoReduction
from .conv_norms import CONV_NORMS
from .masking import ContextWindow, FrameMask, lengths_to_mask

# A batch is packed if at least this share of its frames is padding.
MIN_PADDING_SHARE = 0.1


@dataclass(frozen=True)
class PaddedBatch:
    """
    Clips side by side, padded to one number of frames.

    Args:
        num_frames: Rows of the tensor.
        lengths: (batch,), frames of each clip; None when all are real.
        norm_frames: (batch,), frames that the norms after the convolutions take their statistics of; or None.
    """

    num_frames: int
    lengths: torch.Tensor | None
    norm_frames: torch.Tensor | None = None

    @property
    def longest_frames(self) -> int:
        """Frames that positions are needed for."""
        return self.num_frames

    def add_positions(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Absolute positions (longest_frames, hidden_size) added to the states of every clip."""
        return hidden_states + positions

    def lay_out(self, values: torch.Tensor) -> torch.Tensor:
        """Values of frames, (batch, frames, ...), in the places of the frames: as they are."""
        return values

    def build_mask(self, window: ContextWindow, device: torch.device) -> FrameMask:
        """Real frames, and those that attention may look at. Queries in the padding see too: nothing reads them."""
        padding_mask = None if self.lengths is None else lengths_to_mask(self.lengths, self.num_frames)
        return FrameMask(self.num_frames, window, padding_mask)

    def unpack(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output as it is, (batch, frames, size), and the lengths."""
        return hidden_states, self.lengths


@dataclass(frozen=True)
class PackedRows:
    """
    Clips end to end in one row, so that nothing is computed for the padding of a batch.

    Args:
        lengths: Frames of each clip.
        gap_frames: Rows of zeros after each clip, so that a convolution over time sees padding there.
        num_padded_frames: Frames that the padded batch has.
    """

    lengths: tuple[int, ...]
    gap_frames: int
    num_padded_frames: int
    norm_frames: None = None  # such norms are not packed

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First row of each clip, and the one after its last."""
        spans, start = [], 0
        for length in self.lengths:
            spans.append((start, start + length))
            start += length + self.gap_frames
        return tuple(spans)

    @property
    def num_rows(self) -> int:
        return sum(self.lengths) + self.gap_frames * len(self.lengths)

    @property
    def longest_frames(self) -> int:
        """Frames that positions are needed for."""
        return max(self.lengths)

    def add_positions(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Absolute positions (longest_frames, hidden_size) added to the states of every clip, in place."""
        for start, stop in self.spans:
            hidden_states[:, start:stop] += positions[: stop - start]
        return hidden_states

    def lay_out(self, values: torch.Tensor) -> torch.Tensor:
        """Values of frames, (batch, frames, ...), in the places of the frames, (1, rows, ...); zeros in the gaps."""
        rows = values.new_zeros(1, self.num_rows, *values.shape[2:])
        for clip, (start, stop) in zip(values, self.spans, strict=True):
            rows[0, start:stop] = clip[: stop - start]
        return rows

    def build_mask(self, window: ContextWindow, device: torch.device) -> FrameMask:
        """Frames that the blocks may look at: gaps are padding."""
        padding_mask = torch.zeros(1, self.num_rows, dtype=torch.bool, device=device)
        for start, stop in self.spans:
            padding_mask[:, start:stop] = True
        spans = tuple(span for span in self.spans if span[0] < span[1])
        return FrameMask(self.num_rows, window, padding_mask, spans=spans)

    def unpack(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, rows, size) to (batch, num_padded_frames, size) with zeros after each clip, and the lengths (batch,)."""
        batch = hidden_states.new_zeros(len(self.lengths), self.num_padded_frames, hidden_states.shape[-1])
        for clip, (start, stop) in enumerate(self.spans):
            batch[clip, : stop - start] = hidden_states[0, start:stop]
        return batch, torch.tensor(self.lengths, dtype=torch.int64, device=hidden_states.device)


def plan_packing(config: FastConformerConfig, mel_lengths: Sequence[int], num_mel_frames: int) -> PackedRows | None:
    """
    The rows of a batch; None where packing gains too little, or cannot be.

    A clip must have the same frames alone as in the batch, and each of them once: not with norms over its frames, a
    front that fills up its last frame, or a reduction among the blocks.

    Args:
        config: The model's.
        mel_lengths: Mel frames of each clip.
        num_mel_frames: Rows of the features.
    """
    has_own_frames = config.subsampling.has_full_rows and isinstance(config.reduction, NoReduction)
    if CONV_NORMS[config.conv_norm_type].counts_frames or not has_own_frames:
        return None
    if len(mel_lengths) < 2 or min(mel_lengths) == 0:
        return None
    lengths = tuple(map(config.subsampling.count_frames, mel_lengths))
    packed = PackedRows(lengths, max(config.conv_padding), config.subsampling.count_rows(num_mel_frames))
    num_padded_rows = len(mel_lengths) * packed.num_padded_frames
    return None if packed.num_rows > (1 - MIN_PADDING_SHARE) * num_padded_rows else packed


def subsample_padded(
    front: nn.Module,
    input_features: torch.Tensor,
    lengths: torch.Tensor | None,
    norm_frames: torch.Tensor | None,
) -> tuple[torch.Tensor, PaddedBatch]:
    """The front of the encoder for a batch as it is: (batch, frames, hidden_size)."""
    if lengths is not None:
        # Whatever stands in the padding, NaN too, must not reach a real frame.
        padding = ~lengths_to_mask(lengths, input_features.shape[1])
        input_features = input_features.masked_fill(padding[..., None], 0.0)
    hidden_states, lengths = front(input_features, lengths)
    return hidden_states, PaddedBatch(hidden_states.shape[1], lengths, norm_frames)


def subsample_packed(
    front: nn.Module, input_features: torch.Tensor, mel_lengths: Sequence[int], packed: PackedRows
) -> torch.Tensor:
    """The front of the encoder for one clip after the other: (1, packed rows, hidden_size)."""
    rows: torch.Tensor | None = None
    for clip, ((start, stop), mel_length) in enumerate(zip(packed.spans, mel_lengths, strict=True)):
        frames, _ = front(input_features[clip, None, :mel_length], None)
        if rows is None:  # of the dtype that autocast, too, makes of it
            rows = frames.new_zeros(1, packed.num_rows, frames.shape[-1])
        rows[:, start:stop] = frames
    assert rows is not None
    return rows
