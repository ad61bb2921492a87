"""Waveforms to another rate, a block at a time, with soxr, which the extra `audio` brings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import frames
from ..validation import require, require_count

INSTALL_COMMAND = "pip install 'transformers-fastconformer[audio]'"
# Samples, at the lower of the two rates, on which the filters of soxr at high quality depend, and more: a resampler
# that begins so many samples earlier gives the same samples, but for rounding.
WARM_UP_SAMPLES = 2048


class StreamResampler:
    """
    Resampler of a clip whose samples come in pieces.

    All samples together are what soxr makes of the whole clip at high quality, to the last bit, whatever the sizes of
    the pieces. They come late: soxr works on stretches of about 40 ms (48 or 44.1 to 16 kHz) to 120 ms (8 to 16 kHz).

    soxr's own state cannot be read. So the last samples that came are kept, as many as its filters depend on (128 ms
    of 48 kHz, at most a second more for odd rates): a resampler that is restored is fed with them first. It goes on
    with samples that differ from those of one that never stopped by rounding, at most 1e-6 of full scale (3e-6 for
    rates without a common divisor), because the stretches fall elsewhere.

    Args:
        from_sampling_rate, to_sampling_rate: Rates in Hz.

    Raises:
        ValueError: for a rate that is not a positive integer.
        ImportError: the extra `audio` is not installed; the message holds the command.
    """

    def __init__(self, from_sampling_rate: int, to_sampling_rate: int) -> None:
        require_count("sampling_rate", from_sampling_rate)
        require_count("sampling_rate", to_sampling_rate)
        self.from_sampling_rate = from_sampling_rate
        self.to_sampling_rate = to_sampling_rate
        self.num_taken = 0  # samples that came
        self.num_given = 0
        divisor = math.gcd(from_sampling_rate, to_sampling_rate)
        # A sample comes out exactly where `_from_step` samples, or a multiple, have come in: `_to_step` samples.
        self._from_step, self._to_step = from_sampling_rate // divisor, to_sampling_rate // divisor
        self._warm_up_samples = -(-WARM_UP_SAMPLES * from_sampling_rate // min(from_sampling_rate, to_sampling_rate))
        self._stream = _open_stream(from_sampling_rate, to_sampling_rate)
        self._num_known = 0  # samples that soxr still has to give and that were given before
        self._ahead = np.zeros(0, dtype=np.float32)  # samples that soxr gave before they were asked for
        self._kept: list[np.ndarray] = []  # the last samples that came
        self._num_kept = 0

    def resample(self, samples: np.ndarray, is_last: bool = False) -> np.ndarray:
        """
        Resampled samples that are ready.

        Args:
            samples: (samples,) float32, the next ones; there may be none.
            is_last: The clip ends here: all the rest comes, as long as the clip, rounded up.
        """
        resampled = self._feed(samples, is_last)
        if self._ahead.shape[0]:
            resampled = np.concatenate([self._ahead, resampled])
            self._ahead = self._ahead[:0]
        self.num_taken += samples.shape[0]
        if is_last:
            # soxr rounds the length to the nearest sample; the duration is kept to the sample above, with silence.
            num_samples = frames.resampled_samples(self.num_taken, self.from_sampling_rate, self.to_sampling_rate)
            missing = num_samples - self.num_given - resampled.shape[0]
            resampled = np.pad(resampled, (0, missing)) if missing >= 0 else resampled[:missing]
        else:
            self._keep(samples)
        self.num_given += resampled.shape[0]
        return resampled

    def _feed(self, samples: np.ndarray, is_last: bool) -> np.ndarray:
        """Samples that are new."""
        resampled = self._stream.resample_chunk(np.ascontiguousarray(samples), last=is_last)
        num_dropped = min(self._num_known, resampled.shape[0])
        self._num_known -= num_dropped
        return resampled[num_dropped:]

    @property
    def _first_kept(self) -> int:
        """Number of the first sample that a restored resampler needs; a sample of the other rate falls on it."""
        return max(self.num_taken - self._warm_up_samples, 0) // self._from_step * self._from_step

    def _keep(self, samples: np.ndarray) -> None:
        max_needed = self._warm_up_samples + self._from_step
        self._kept.append(samples[-max_needed:].copy())
        self._num_kept += self._kept[-1].shape[0]
        if self._num_kept > 2 * max_needed:  # rarely, so that joining costs little
            self._kept = [self._needed_samples()]
            self._num_kept = self._kept[0].shape[0]

    def _needed_samples(self) -> np.ndarray:
        kept = np.concatenate([np.zeros(0, dtype=np.float32), *self._kept])
        return kept[kept.shape[0] - (self.num_taken - self._first_kept) :].copy()

    def state_dict(self) -> dict[str, np.ndarray]:
        """The state before the end of the clip, as arrays: `samples` (samples,) and `counts` (2,)."""
        counts = np.array([self.num_taken, self.num_given], dtype=np.int64)
        return {"samples": self._needed_samples(), "counts": counts}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """
        Go on where another resampler of the same rates was.

        Args:
            state: What its `state_dict` gave.

        Raises:
            ValueError: for what does not belong together.
        """
        samples = state["samples"]
        self.num_taken, self.num_given = map(int, state["counts"])
        first_kept = self._first_kept
        num_needed = self.num_taken - first_kept
        expected = f"({num_needed},) for a stream from {self.from_sampling_rate} to {self.to_sampling_rate} Hz"
        require(samples.shape == (num_needed,), "shape of the samples", samples.shape, expected)
        self._kept, self._num_kept = [samples.copy()], num_needed
        self._num_known = self.num_given - first_kept // self._from_step * self._to_step
        self._stream = _open_stream(self.from_sampling_rate, self.to_sampling_rate)
        self._ahead = self._feed(samples, is_last=False)


def _open_stream(from_sampling_rate: int, to_sampling_rate: int) -> Any:
    try:
        import soxr
    except ImportError as error:
        rates = f"{from_sampling_rate} Hz to {to_sampling_rate} Hz"
        raise ImportError(f"Resampling from {rates} needs soxr: {INSTALL_COMMAND}") from error
    return soxr.ResampleStream(from_sampling_rate, to_sampling_rate, 1, dtype="float32", quality="HQ")


def make_resampler(from_sampling_rate: int, to_sampling_rate: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """
    Make a function of the next samples of a clip, and of whether they are its last, that gives the resampled samples
    that are ready, as [`StreamResampler`] does.

    Raises:
        ValueError: for a rate that is not a positive integer.
        ImportError: the extra `audio` is not installed; the message holds the command.
    """
    require_count("sampling_rate", to_sampling_rate)
    if from_sampling_rate == to_sampling_rate:
        return lambda samples, is_last: samples
    return StreamResampler(from_sampling_rate, to_sampling_rate).resample
