"""Normalisation by what was heard so far: the plain definition, no dependence on pieces, hold, decay and prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer.audio.feature_normalization import FeatureStatistics
from transformers_fastconformer.audio.running_normalization import RunningNormalization, RunningNormalizer

FRAME_SECONDS = 0.01


def make(kind: str = "per_feature", num_features: int = 3, **options: Any) -> RunningNormalizer:
    return RunningNormalizer(kind, num_features, FRAME_SECONDS, RunningNormalization(**options))


def log_mels(num_frames: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((num_frames, 3)) * [1.0, 2.0, 0.1] - [5.0, 8.0, 1.0]
    return values.astype(np.float32)


def normalize(values: np.ndarray, sizes: list[int], **options: Any) -> np.ndarray:
    normalizer, parts, start = make(**options), [], 0
    for size in sizes:
        parts.append(normalizer.push(values[start : start + size]))
        restored = make(**options)
        restored.load_state_dict(normalizer.state_dict())
        normalizer, start = restored, start + size
    return np.concatenate([*parts, normalizer.push(values[start:], is_last=True)])


def reference(values: np.ndarray, kind: str, hold_frames: int) -> np.ndarray:
    """Each frame by the frames up to it, or to the end of the hold, one after the other."""
    rows = []
    for place in range(len(values)):
        heard = values[: max(place + 1, min(hold_frames, len(values)))].astype(np.float64)
        axis = 0 if kind == "per_feature" else None
        deviation = heard.std(axis=axis, ddof=1) if heard.shape[0] > 1 or axis is None else 0.0
        rows.append((values[place] - heard.mean(axis=axis)) / (deviation + 1e-5))
    return np.stack(rows)


@pytest.mark.parametrize("kind", ["per_feature", "all_features"])
@pytest.mark.parametrize("hold_frames", [0, 1, 30, 500])
def test_frames_are_normalized_by_what_was_heard(kind: str, hold_frames: int) -> None:
    values = log_mels(120)
    options = {"kind": kind, "hold_seconds": hold_frames * FRAME_SECONDS}
    whole = normalize(values, [], **options)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, reference(values, kind, hold_frames), atol=2e-5, rtol=2e-5)
    for sizes in ([1] * 120, [0, 29, 1, 1], [45, 3], [7] * 10):
        assert np.array_equal(normalize(values, sizes, **options), whole)


def test_nothing_comes_before_the_hold_ends() -> None:
    normalizer = make(hold_seconds=0.3)
    assert [len(normalizer.push(log_mels(10))) for _ in range(5)] == [0, 0, 30, 10, 10]
    assert len(make(hold_seconds=0.3).push(log_mels(10), is_last=True)) == 10


def test_decay_forgets() -> None:
    values = np.concatenate([log_mels(2000), log_mels(2000, seed=1) + 50])
    for sizes in ([1] * 40, [1234]):
        assert np.array_equal(
            normalize(values, sizes, decay_seconds=1.0, hold_seconds=0.5),
            normalize(values, [], decay_seconds=1.0, hold_seconds=0.5),
        )
    late = slice(3500, 4000)
    expected = reference(values[2000:], "per_feature", 0)[1500:]
    assert np.abs(normalize(values, [], decay_seconds=1.0)[late] - expected).mean() < 0.15
    assert np.abs(normalize(values, [])[late] - expected).mean() > 0.5
    # 1/e of the weight is left after so long: the weight tends to 1 / (1 - exp(-0.01)).
    normalizer = make(decay_seconds=1.0)
    normalizer.push(values)
    assert normalizer.statistics.num_frames == round(1 / (1 - np.exp(-0.01)))


def test_a_prior_counts_as_if_it_had_been_heard() -> None:
    before, values = log_mels(300, seed=5), log_mels(100)
    prior = FeatureStatistics.of(torch.from_numpy(before.T.copy()))
    expected = reference(np.concatenate([before, values]), "per_feature", 0)[300:]
    found = normalize(values, [1] * 50, prior=prior, prior_seconds=3.0, hold_seconds=0.0)
    np.testing.assert_allclose(found, expected, atol=0.02)
    normalizer = make()
    normalizer.push(before)
    assert normalizer.statistics.num_frames == 300
    torch.testing.assert_close(normalizer.statistics.means, prior.means)
    torch.testing.assert_close(normalizer.statistics.squares, prior.squares, rtol=1e-6, atol=1e-6)


def test_a_constant_and_a_single_frame_become_zero() -> None:
    assert not normalize(np.full((50, 3), -16.6, dtype=np.float32), [3] * 10, hold_seconds=0.0).any()
    assert not normalize(log_mels(1), []).any()
    assert normalize(log_mels(0), [0, 0]).shape == (0, 3)


def test_ten_hours_lose_no_digits() -> None:
    normalizer, values = make(hold_seconds=0.0), log_mels(1000)
    normalizer.push(values)
    normalizer._weight, normalizer._sums = 3_600_000.0, normalizer._sums * 3600
    expected = (values[:5] - values.astype(np.float64).mean(axis=0)) / (values.astype(np.float64).std(axis=0) + 1e-5)
    np.testing.assert_allclose(normalizer.push(values[:5]), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold_seconds": -1}, "hold_seconds=-1 is not supported; expected seconds, 0 or more"),
        ({"decay_seconds": 0}, "decay_seconds=0 is not supported"),
        ({"prior_seconds": 1.0}, "prior_seconds=1.0 is not supported; expected more than 0 with a prior"),
        ({"prior": 3, "prior_seconds": 1.0}, "prior=3"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunningNormalization(**options)


def test_a_prior_of_another_model_is_refused() -> None:
    prior = FeatureStatistics.of(torch.from_numpy(log_mels(10).T.copy()))
    with pytest.raises(ValueError, match="expected statistics of 80 features"):
        make(num_features=80, prior=prior, prior_seconds=1.0)
    with pytest.raises(ValueError, match="features of held"):
        make(num_features=4).load_state_dict(make().state_dict())
