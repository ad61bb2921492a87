"""Normalisation of features by statistics of a clip: of the whole, or joined from its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import frames
from .log_mel_settings import LogMelSettings

# Keeps a constant feature from a division by zero. NeMo 3.0.0: CONSTANT in parts/preprocessing/features.py.
STANDARD_DEVIATION_FLOOR = 1e-5


@dataclass(frozen=True)
class FeatureStatistics:
    """
    Number, means and sums of squared deviations of the frames of a clip, for each mel and in float64.

    Blocks are joined by the pairwise rule of Chan, Golub and LeVeque (1979), which does not lose digits however long
    the clip is.

    Args:
        num_frames: Frames that count.
        means, squares: (mels,).
    """

    num_frames: int
    means: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, log_mels: torch.Tensor) -> FeatureStatistics:
        """Statistics of (mels, mel frames), all of which count."""
        values = log_mels.double()
        num_frames = values.shape[1]
        means = values.sum(dim=1) / max(num_frames, 1)
        return cls(num_frames, means, (values - means[:, None]).square_().sum(dim=1))

    def join(self, following: FeatureStatistics) -> FeatureStatistics:
        """Statistics of both blocks together."""
        num_frames = self.num_frames + following.num_frames
        share = following.num_frames / max(num_frames, 1)
        gap = following.means - self.means
        return FeatureStatistics(
            num_frames,
            self.means + gap * share,
            self.squares + following.squares + gap.square() * (self.num_frames * share),
        )


def normalize_and_pad(features: torch.Tensor, mel_lengths: torch.Tensor, settings: LogMelSettings) -> torch.Tensor:
    """Normalisation, masked frames and their number: (batch, mels, mel frames) to (batch, mel frames, mels)."""
    is_valid = torch.arange(features.shape[2], device=features.device) < mel_lengths[:, None]
    if settings.normalize == "per_feature":
        features = _normalize_per_feature(features, is_valid, mel_lengths)
    elif settings.normalize == "all_features":
        features = _normalize_all_features(features, mel_lengths.tolist())
    features = features.masked_fill(~is_valid[:, None, :], settings.padding_value)
    missing_frames = frames.padded_mel_frames(features.shape[2], settings.pad_to) - features.shape[2]
    if missing_frames:
        features = torch.nn.functional.pad(features, (0, missing_frames), value=settings.padding_value)
    return features.transpose(1, 2).contiguous()  # (batch, mel frames, mels)


def _normalize_per_feature(features: torch.Tensor, is_valid: torch.Tensor, mel_lengths: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit deviation of each mel over the valid frames; a single frame becomes 0, as NeMo has it."""
    is_masked = ~is_valid[:, None, :]
    counts = mel_lengths[:, None].to(torch.float32)
    means = features.masked_fill(is_masked, 0.0).sum(dim=2) / counts  # (batch, mels)
    centred = (features - means[:, :, None]).masked_fill_(is_masked, 0.0)
    deviations = torch.sqrt(centred.square().sum(dim=2) / (counts - 1.0))
    return scale_to_unit_deviation(centred, deviations.masked_fill(deviations.isnan(), 0.0)[:, :, None])


def _normalize_all_features(features: torch.Tensor, mel_lengths: list[int]) -> torch.Tensor:
    """Zero mean and unit deviation over all valid values of each clip."""
    normalized = torch.zeros_like(features)
    for clip, values, mel_length in zip(normalized, features, mel_lengths, strict=True):
        valid = values[:, :mel_length]
        if valid.numel() == 1:
            continue  # no deviation: a single value becomes 0, as in per_feature
        if valid.numel() > 1:
            clip[:, :mel_length] = scale_to_unit_deviation(valid - valid.mean(), valid.std())
    return normalized


def scale_to_unit_deviation(centred: torch.Tensor, deviations: torch.Tensor) -> torch.Tensor:
    """Features around 0 to those of unit deviation, in place."""
    return centred.div_(deviations + STANDARD_DEVIATION_FLOOR)
