"""The mel filters: triangles on Slaney's scale."""

from __future__ import annotations

import numpy as np
import pytest

from transformers_fastconformer.audio.mel_filterbank import mel_filterbank

RATE, N_FFT = 16000, 512


@pytest.mark.parametrize("num_mels", [80, 128])
def test_filters_rise_and_fall_once_and_overlap_with_their_neighbours_alone(num_mels: int) -> None:
    filters = mel_filterbank(RATE, N_FFT, num_mels)
    assert filters.shape == (num_mels, N_FFT // 2 + 1)
    assert filters.dtype == np.float32
    assert (filters >= 0).all()
    peaks = filters.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    for filter_, peak in zip(filters, peaks, strict=True):
        assert (np.diff(filter_[: peak + 1]) >= 0).all()
        assert (np.diff(filter_[peak:]) <= 0).all()
    assert not (filters[:-2] * filters[2:]).any()


def test_frequencies_outside_of_the_range_are_not_heard() -> None:
    filters = mel_filterbank(RATE, N_FFT, 20, min_frequency=500.0, max_frequency=4000.0)
    hertz = np.fft.rfftfreq(N_FFT, d=1 / RATE)
    assert not filters[:, (hertz <= 500) | (hertz >= 4000)].any()
    assert filters[:, (hertz > 600) & (hertz < 3800)].any(axis=0).all()


def test_the_norm_gives_every_filter_the_same_area() -> None:
    plain, normed = (mel_filterbank(RATE, 8192, 40, mel_norm=norm) for norm in (None, "slaney"))
    assert plain.max() <= 1.0
    areas = normed.sum(axis=1) * RATE / 8192
    np.testing.assert_allclose(areas, 1.0, rtol=0.05)
