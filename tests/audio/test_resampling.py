"""Resampling in blocks: the whole clip to the last bit, of the same duration."""

from __future__ import annotations

import numpy as np
import pytest

from transformers_fastconformer.audio.resampling import StreamResampler, make_resampler

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


@pytest.mark.parametrize("from_sampling_rate", [8000, 11025, 24000, 44100, 48000])
def test_pieces_of_any_size_give_the_same_samples(from_sampling_rate: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, from_sampling_rate // 2 + 3).astype(np.float32)
    whole = make_resampler(from_sampling_rate, 16000)(samples, True)
    for size in (1, 13, from_sampling_rate // 100, 4096):
        resampler = StreamResampler(from_sampling_rate, 16000)
        parts = [resampler.resample(samples[start : start + size]) for start in range(0, len(samples), size)]
        assert np.array_equal(np.concatenate([*parts, resampler.resample(samples[:0], is_last=True)]), whole)
        assert (resampler.num_taken, resampler.num_given) == (len(samples), len(whole))


@pytest.mark.parametrize(
    ("rates", "bound"),
    [
        ((8000, 16000), 1e-6),
        ((44100, 16000), 1e-6),
        ((48000, 16000), 1e-6),
        ((16000, 8000), 1e-6),
        ((44101, 16000), 3e-6),
        ((192000, 16000), 1e-6),
    ],
)
def test_a_restored_resampler_goes_on(rates: tuple[int, int], bound: float) -> None:
    rate = rates[0]
    samples = np.random.default_rng(1).uniform(-1, 1, 2 * rate).astype(np.float32)
    whole = make_resampler(*rates)(samples, True)
    for place in (0, 1, rate // 50, rate // 3, rate + 17):
        stream = StreamResampler(*rates)
        parts = [stream.resample(samples[:place])]
        for end in (place + 777, len(samples)):
            restored = StreamResampler(*rates)
            restored.load_state_dict(stream.state_dict())
            parts.append(restored.resample(samples[place:end], is_last=end == len(samples)))
            stream, place = restored, end
        found = np.concatenate(parts)
        assert len(found) == len(whole)
        assert np.abs(found - whole).max() < bound


def test_what_is_kept_is_bounded() -> None:
    stream = StreamResampler(48000, 16000)
    for _ in range(300):
        stream.resample(np.ones(777, dtype=np.float32))
    assert len(stream.state_dict()["samples"]) == 3 * 2048 + (300 * 777 - 3 * 2048) % 3
    assert stream._num_kept < 3 * 6147
    with pytest.raises(ValueError, match="shape of the samples"):
        StreamResampler(44100, 16000).load_state_dict(stream.state_dict())
