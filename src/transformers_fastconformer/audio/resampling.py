"""Waveforms to another rate, a block at a time, with soxr, which the extra `audio` brings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import frames
from ..validation import require_count

INSTALL_COMMAND = "pip install 'transformers-fastconformer[audio]'"


def make_resampler(from_sampling_rate: int, to_sampling_rate: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """
    Make a function of the next samples of a clip, and of whether they are its last, that gives the resampled samples
    that are ready.

    All together they are what soxr makes of the whole clip at high quality, to the last bit.

    Raises:
        ValueError: for a rate that is not a positive integer.
        ImportError: the extra `audio` is not installed; the message holds the command.
    """
    require_count("sampling_rate", to_sampling_rate)
    if from_sampling_rate == to_sampling_rate:
        return lambda samples, is_last: samples
    try:
        import soxr
    except ImportError as error:
        rates = f"{from_sampling_rate} Hz to {to_sampling_rate} Hz"
        raise ImportError(f"Resampling from {rates} needs soxr: {INSTALL_COMMAND}") from error
    stream = soxr.ResampleStream(from_sampling_rate, to_sampling_rate, 1, dtype="float32", quality="HQ")
    num_taken = num_given = 0

    def resample(samples: np.ndarray, is_last: bool) -> np.ndarray:
        nonlocal num_taken, num_given
        resampled = stream.resample_chunk(np.ascontiguousarray(samples), last=is_last)
        num_taken += samples.shape[0]
        num_given += resampled.shape[0]
        if not is_last:
            return resampled
        # soxr rounds the length to the nearest sample; the duration is kept to the sample above, filled with silence.
        missing = frames.resampled_samples(num_taken, from_sampling_rate, to_sampling_rate) - num_given
        return np.pad(resampled, (0, missing)) if missing >= 0 else resampled[:missing]

    return resample
