"""Settings of log-mel features, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .. import frames
from ..validation import is_number, require, require_choice, require_count

WINDOW_FUNCTIONS = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
NORMALIZATIONS = ("per_feature", "all_features", None)
LOG_ZERO_GUARD_TYPES = ("add", "clamp")
LOG_ZERO_GUARD_NAMES = ("eps", "tiny")
MEL_NORMS = ("slaney", None)
FILTERBANK_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_FLOAT32 = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True)
class LogMelSettings:
    """
    Settings of the features, checked; [`FastConformerFeatureExtractor`] says what each of them means.

    Raises:
        ValueError: for a value that is not accepted.
    """

    feature_size: int
    sampling_rate: int
    hop_length: int
    win_length: int
    n_fft: int
    preemphasis: float | None
    window: str
    normalize: str | None
    mag_power: float
    log: bool
    log_zero_guard_type: str
    log_zero_guard_value: float | str
    pad_to: int
    padding_value: float
    exact_pad: bool
    frame_splicing: int
    min_frequency: float
    max_frequency: float | None
    mel_norm: str | None
    filterbank_dtype: str
    peak_scaling: float | None

    def __post_init__(self) -> None:
        for name in ("feature_size", "sampling_rate", "hop_length", "win_length", "n_fft", "frame_splicing"):
            require_count(name, getattr(self, name))
        require(self.n_fft >= self.win_length, "n_fft", self.n_fft, f"at least win_length={self.win_length}")
        require_count("pad_to", self.pad_to, 0)
        for name in ("log", "exact_pad"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        for name in ("mag_power", "padding_value", "min_frequency"):
            require(_is_float32(getattr(self, name)), name, getattr(self, name), "a number of float32")
        for name in ("preemphasis", "max_frequency"):
            value = getattr(self, name)
            require(value is None or _is_float32(value), name, value, "a number of float32, or None")
        for name, accepted in (
            ("window", WINDOW_FUNCTIONS),
            ("normalize", NORMALIZATIONS),
            ("log_zero_guard_type", LOG_ZERO_GUARD_TYPES),
            ("mel_norm", MEL_NORMS),
            ("filterbank_dtype", FILTERBANK_DTYPES),
        ):
            require_choice(name, getattr(self, name), accepted)
        scaling = self.peak_scaling
        is_scaling = scaling is None or (_is_float32(scaling) and scaling > 0)
        require(is_scaling, "peak_scaling", scaling, "a number above 0 or None")
        guard = self.log_zero_guard_value
        is_guard = guard in LOG_ZERO_GUARD_NAMES if isinstance(guard, str) else _is_float32(guard)
        require(is_guard, "log_zero_guard_value", guard, f"a number or one of {LOG_ZERO_GUARD_NAMES}")
        lowest, highest = self.min_frequency, self.max_frequency
        require(lowest >= 0, "min_frequency", lowest, "0 Hz or more")
        if highest is None:
            nyquist = self.sampling_rate / 2
            require(lowest < nyquist, "min_frequency", lowest, f"0 to below {nyquist} Hz")
        else:
            require(lowest < highest, "max_frequency", highest, f"more than min_frequency={lowest}")
        if self.exact_pad:
            hop_length = self.hop_length
            require(hop_length % 2 == 0, "hop_length", hop_length, "an even number where exact_pad is set")
            require(hop_length <= self.n_fft, "hop_length", hop_length, "at most n_fft where exact_pad is set")

    @property
    def output_size(self) -> int:
        """Features of a frame that come out: `feature_size`, times `frame_splicing`."""
        return self.feature_size * self.frame_splicing

    @property
    def padding_samples(self) -> int:
        """Zeros on either side of a clip."""
        return frames.stft_padding_samples(self.n_fft, self.hop_length, self.exact_pad)

    @property
    def cut_samples(self) -> int:
        """Samples at the end of a clip that pre-emphasis loses.

        With `exact_pad` NeMo 3.0.0 counts the length from the start of the padding, which cuts off the last samples.
        """
        return self.padding_samples if self.exact_pad else 0


def _is_float32(value: Any) -> bool:
    return is_number(value) and abs(value) <= MAX_FLOAT32
