"""
SpecAugment (Park et al., 2019) and Cutout (DeVries and Taylor, 2017) of log-mel features.

Follows NeMo 3.0's `SpectrogramAugmentation`. Bands are drawn as its `SpecAugment` does by default
(`use_vectorized_spec_augment`): the same numbers in the same order from torch's generator of the device, so that equal
seeds give equal masks. Rectangles have the distribution of its `SpecCutout`, which draws from a generator of its own
that has no seed.
"""

from __future__ import annotations

import torch

from ..configuration_training import SpecAugmentFields

RECTANGLE_VALUE = 0.0


def spec_augment(config: SpecAugmentFields, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """
    Copy features with bands and rectangles set to one value.

    Args:
        config: Counts, widths and value of the masks; `apply_spec_augment` is not asked here.
        features: (batch, mel frames, mels).
        lengths: (batch,), mel frames of each clip on the device of the features; None: all are real.
    """
    num_clips, num_frames, num_mels = features.shape
    if lengths is None:
        lengths = torch.full((num_clips,), num_frames, dtype=torch.int64, device=features.device)
    if config.mask_rectangle_count:
        features = features.masked_fill(_draw_rectangles(config, features), RECTANGLE_VALUE)
    lengths = lengths[:, None]  # (batch, 1)
    width: torch.Tensor | int = _width_of_time(config.mask_time_width, lengths, num_frames)
    is_masked_frame = _draw_bands(config.mask_time_count, width, lengths, num_frames)
    mels = torch.full_like(lengths, num_mels)
    is_masked_mel = _draw_bands(config.mask_feature_count, config.mask_feature_width, mels, num_mels)
    is_masked = is_masked_frame[:, :, None] | is_masked_mel[:, None]  # (batch, mel frames, mels)
    return features.masked_fill(is_masked, config.mask_value)


def _width_of_time(width: int | float, lengths: torch.Tensor, num_frames: int) -> torch.Tensor | int:
    """Frames that a band stays below: a number, or a share of each clip, (batch, 1)."""
    if isinstance(width, float):
        return (width * lengths).clamp(max=num_frames)
    return width


def _draw_bands(count: int, width: torch.Tensor | int, lengths: torch.Tensor, size: int) -> torch.Tensor:
    """
    Draw bands along one axis.

    Args:
        count: Bands a clip.
        width: Bands stay below it; one for all clips, or (batch, 1).
        lengths: (batch, 1), places that a band starts in.
        size: Places of the axis.

    Returns:
        (batch, size), True in a band.
    """
    shape = (lengths.shape[0], count)
    widths = (torch.rand(shape, dtype=torch.float32, device=lengths.device) * width).long()
    # A band that is longer than its clip starts before it, as in NeMo.
    starts = (torch.rand(shape, dtype=torch.float32, device=lengths.device) * (lengths - widths)).long()
    return _fill_spans(starts, starts + widths, size).any(dim=1)


def _draw_rectangles(config: SpecAugmentFields, features: torch.Tensor) -> torch.Tensor:
    """Places of the features in a rectangle, which may be in the padding too: (batch, mel frames, mels)."""
    shape = (features.shape[0], config.mask_rectangle_count)
    of_mels = _draw_sides(shape, config.mask_rectangle_features, features.shape[2], features.device)
    of_frames = _draw_sides(shape, config.mask_rectangle_frames, features.shape[1], features.device)
    is_masked = torch.zeros(features.shape, dtype=torch.bool, device=features.device)
    for mels, frames in zip(of_mels.unbind(1), of_frames.unbind(1), strict=True):
        is_masked |= frames[:, :, None] & mels[:, None]
    return is_masked


def _draw_sides(shape: tuple[int, int], width: int, size: int, device: torch.device) -> torch.Tensor:
    """One side of rectangles: a start at which the widest fits, and a width up to the widest; (*shape, size)."""
    starts = torch.randint(max(size - width, 0) + 1, shape, dtype=torch.int64, device=device)
    widths = torch.randint(width + 1, shape, dtype=torch.int64, device=device)
    return _fill_spans(starts, starts + widths, size)


def _fill_spans(starts: torch.Tensor, ends: torch.Tensor, size: int) -> torch.Tensor:
    """True from each start to before its end: (batch, count) to (batch, count, size)."""
    places = torch.arange(size, dtype=torch.int64, device=starts.device)
    return (places >= starts[..., None]) & (places < ends[..., None])
