"""
Normalisation of live features by what was heard so far, for checkpoints that were trained with that of whole clips.

It is an approximation: the mean and deviation of a whole clip are not known before its end. The statistics of a frame
are those of all frames up to it, so they do not depend on how the audio was cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..validation import is_number, require
from .feature_normalization import STANDARD_DEVIATION_FLOOR, FeatureStatistics


@dataclass(frozen=True)
class RunningNormalization:
    """
    Options of normalisation by what was heard so far.

    Args:
        hold_seconds: The first frames wait until so much was heard, or the end, and are then normalised by all of it;
            later frames do not wait. Longer is nearer to the whole clip and delays the first words.
        decay_seconds: What was heard so long before counts 1/e as much as what is heard now, for speakers and
            microphones that change; None: all counts the same.
        prior: Statistics that count as if they had been heard before the stream: those of an earlier recording
            (`RunningNormalizer.statistics`), or of many. None: only the stream counts.
        prior_seconds: Length of the audio for which `prior` counts.

    Raises:
        ValueError: for a value that is not accepted.
    """

    hold_seconds: float = 1.0
    decay_seconds: float | None = None
    prior: FeatureStatistics | None = None
    prior_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("hold_seconds", "prior_seconds"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, name, value, "seconds, 0 or more")
        decay = self.decay_seconds
        is_decay = decay is None or (is_number(decay) and decay > 0)
        require(is_decay, "decay_seconds", decay, "seconds, more than 0, or None")
        is_prior = self.prior is None or (isinstance(self.prior, FeatureStatistics) and self.prior.num_frames > 1)
        require(is_prior, "prior", self.prior, "FeatureStatistics of two frames or more, or None")
        is_used = (self.prior is None) == (self.prior_seconds == 0)
        require(is_used, "prior_seconds", self.prior_seconds, "more than 0 with a prior, and 0 without")


class RunningNormalizer:
    """
    Frames of one stream, normalised by the frames up to them.

    Args:
        kind: `"per_feature"` or `"all_features"`, as in [`LogMelSettings`].
        num_features: Features of a frame.
        frame_seconds: Seconds from one mel frame to the next.
        options: The options.
    """

    def __init__(self, kind: str, num_features: int, frame_seconds: float, options: RunningNormalization) -> None:
        self.kind = kind
        self.options = options
        self.num_frames = 0
        self._hold_frames = round(options.hold_seconds / frame_seconds)
        self._held = np.zeros((0, num_features), dtype=np.float32)
        # Weight of all frames so far, their sum and that of their squares, in float64: log-mels are small numbers, so
        # that even ten hours lose nothing that counts.
        self._weight = 0.0
        self._sums = np.zeros((2, num_features), dtype=np.float64)
        self._kept_share = 1.0
        if options.decay_seconds is not None:
            self._kept_share = math.exp(-frame_seconds / options.decay_seconds)
        if options.prior is not None:
            prior, weight = options.prior, options.prior_seconds / frame_seconds
            expected = f"statistics of {num_features} features"
            require(prior.means.shape == (num_features,), "prior", prior.means.shape, expected)
            means, variances = prior.means.double().numpy(), prior.squares.double().numpy() / (prior.num_frames - 1)
            self._weight = weight
            self._sums[:] = weight * means, weight * (means**2 + variances)

    def push(self, log_mels: np.ndarray, is_last: bool = False) -> np.ndarray:
        """
        Normalised frames that are ready.

        Args:
            log_mels: (mel frames, features) float32, the next ones; there may be none.
            is_last: The stream ends here: frames that wait do not wait longer.

        Returns:
            (mel frames, features) float32
        """
        normalized = [log_mels[:0]]
        num_early = min(max(self._hold_frames - self.num_frames, 0), log_mels.shape[0])
        if num_early or self._held.shape[0]:
            early, log_mels = log_mels[:num_early], log_mels[num_early:]
            self._accumulate(early)
            self._held = np.concatenate([self._held, early])
            if self.num_frames >= self._hold_frames or is_last:
                normalized.append(self._normalize(self._held, np.array([self._weight]), self._sums[None]))
                self._held = self._held[:0]
        if log_mels.shape[0]:
            normalized.append(self._normalize(log_mels, *self._accumulate(log_mels)))
        return np.concatenate(normalized)

    @property
    def statistics(self) -> FeatureStatistics:
        """Statistics of what was heard, the prior included, for the `prior` of another stream."""
        num_frames = round(self._weight)
        means = self._sums[0] / max(self._weight, 1.0)
        squares = np.maximum(self._sums[1] - self._weight * means**2, 0.0)
        return FeatureStatistics(num_frames, torch.from_numpy(means), torch.from_numpy(squares))

    def state_dict(self) -> dict[str, np.ndarray]:
        """State of the stream as arrays: `held` (mel frames, features), `sums` (2, features), `counts` (2,)."""
        counts = np.array([self.num_frames, self._weight], dtype=np.float64)
        return {"held": self._held.copy(), "sums": self._sums.copy(), "counts": counts}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on where another normalizer of the same options was, by what its `state_dict` gave."""
        for name, expected in (("held", self._held.shape[1:]), ("sums", self._sums.shape[1:])):
            require(state[name].shape[1:] == expected, f"features of {name}", state[name].shape[1:], f"{expected}")
        self._held, self._sums = state["held"].copy(), state["sums"].copy()
        self.num_frames, self._weight = int(state["counts"][0]), float(state["counts"][1])

    def _accumulate(self, log_mels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight (mel frames,) and sums (mel frames, 2, features) up to each of the frames."""
        values = log_mels.astype(np.float64)
        terms = np.stack([values, values * values], axis=1)
        # Added up one frame after the other, so that the sums do not depend on how many come at a time.
        if self._kept_share == 1.0:
            weights = self._weight + np.arange(1, len(values) + 1, dtype=np.float64)
            sums = np.cumsum(np.concatenate([self._sums[None], terms]), axis=0)[1:]
        else:
            weights, sums = np.empty(len(values), dtype=np.float64), terms
            weight, before = self._weight, self._sums
            for position, term in enumerate(terms):
                weights[position] = weight = weight * self._kept_share + 1.0
                before = before * self._kept_share
                before += term
                sums[position] = before
        if len(values):
            self._weight, self._sums = float(weights[-1]), sums[-1].copy()
        self.num_frames += len(values)
        return weights, sums

    def _normalize(self, log_mels: np.ndarray, weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Frames by the statistics of each, or by the same ones for all of them."""
        totals, squares = sums[:, 0], sums[:, 1]  # (mel frames or 1, features)
        counts = weights[:, None]
        if self.kind == "all_features":
            counts = counts * totals.shape[1]
            totals, squares = (part.sum(axis=1, keepdims=True) for part in (totals, squares))
        means = totals / counts
        # A single value has no deviation: it becomes 0.
        variances = np.maximum(squares - means * totals, 0.0) / np.maximum(counts - 1.0, 1.0)
        deviations = np.sqrt(variances).astype(np.float32) + np.float32(STANDARD_DEVIATION_FLOOR)
        return (log_mels - means.astype(np.float32)) / deviations
