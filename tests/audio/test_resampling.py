"""Resampling in blocks: the whole clip to the last bit, of the same duration."""

from __future__ import annotations

import numpy as np
import pytest

from transformers_fastconformer.audio.resampling import make_resampler

soxr = pytest.importorskip("soxr", reason="the extra `audio` is not installed")


@pytest.mark.parametrize("from_sampling_rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("num_samples", [1, 1601, 20000])
@pytest.mark.parametrize("block_samples", [700, 10**6])
def test_blocks_are_resampled_as_the_whole_clip(from_sampling_rate: int, num_samples: int, block_samples: int) -> None:
    samples = np.random.default_rng(num_samples).uniform(-0.5, 0.5, num_samples).astype(np.float32)
    expected = soxr.resample(samples, from_sampling_rate, 16000, quality="HQ")
    resample = make_resampler(from_sampling_rate, 16000)
    starts = range(0, num_samples, block_samples)
    found = np.concatenate([resample(samples[start : start + block_samples], start == starts[-1]) for start in starts])
    assert len(found) == -(-num_samples * 16000 // from_sampling_rate)
    assert np.array_equal(found[: len(expected)], expected)
    assert not found[len(expected) :].any()


def test_nothing_happens_at_the_same_rate() -> None:
    samples = np.zeros(5, dtype=np.float32)
    assert make_resampler(16000, 16000)(samples, True) is samples
