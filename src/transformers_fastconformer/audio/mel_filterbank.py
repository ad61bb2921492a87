"""Triangular filters on the mel scale."""

from __future__ import annotations

import numpy as np


def mel_filterbank(
    sampling_rate: int,
    n_fft: int,
    num_mels: int,
    min_frequency: float = 0.0,
    max_frequency: float | None = None,
    mel_norm: str | None = "slaney",
) -> np.ndarray:
    """
    Triangular filters, equally wide on Slaney's mel scale; float32, shape (num_mels, n_fft // 2 + 1).

    The scale (Slaney, 1998, "Auditory Toolbox") is linear to 1000 Hz at 66.67 Hz a mel, then logarithmic, a factor of
    6.4 in 27 mels. `mel_norm="slaney"` gives every filter the same area. Bit-equal to `librosa.filters.mel`, whose
    values NeMo stores; that fixes where float64 is rounded to float32: after the triangles and again after the norm.
    """
    hertz_per_mel = 200.0 / 3
    knee_hertz = 1000.0
    knee_mels = knee_hertz / hertz_per_mel
    log_step = np.log(6.4) / 27.0

    def mels_from_hertz(hertz: float) -> float:
        if hertz < knee_hertz:
            return hertz / hertz_per_mel
        return float(knee_mels + np.log(hertz / knee_hertz) / log_step)

    highest = sampling_rate / 2 if max_frequency is None else max_frequency
    edge_mels = np.linspace(mels_from_hertz(float(min_frequency)), mels_from_hertz(float(highest)), num_mels + 2)
    edge_hertz = np.where(
        edge_mels >= knee_mels, knee_hertz * np.exp(log_step * (edge_mels - knee_mels)), hertz_per_mel * edge_mels
    )
    bin_hertz = np.fft.rfftfreq(n_fft, d=1.0 / sampling_rate)
    widths = np.diff(edge_hertz)[:, None]
    distances = edge_hertz[:, None] - bin_hertz[None, :]  # (num_mels + 2, bins)
    rising = -distances[:-2] / widths[:-1]
    falling = distances[2:] / widths[1:]
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)  # (num_mels, bins)
    if mel_norm == "slaney":
        filters = (filters * (2.0 / (edge_hertz[2:] - edge_hertz[:-2]))[:, None]).astype(np.float32)
    return filters
