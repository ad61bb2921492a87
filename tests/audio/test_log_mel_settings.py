"""Settings of the features: what follows from them, and values that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from transformers_fastconformer.audio.log_mel_settings import LogMelSettings
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor


@pytest.fixture(scope="module")
def settings() -> LogMelSettings:
    return FastConformerFeatureExtractor().log_mel.settings


def test_what_follows_from_them(settings: LogMelSettings) -> None:
    assert (settings.output_size, settings.padding_samples, settings.cut_samples) == (80, 256, 0)
    exact = replace(settings, exact_pad=True, frame_splicing=3)
    assert (exact.output_size, exact.padding_samples) == (240, exact.cut_samples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_fft": 256}, "n_fft=256 is not supported; expected at least win_length=400"),
        ({"log": 1}, "log=1 is not supported; expected True or False"),
        ({"mag_power": 1e39}, "expected a number of float32"),
        ({"window": "kaiser"}, "window='kaiser'"),
        ({"peak_scaling": 0.0}, "peak_scaling=0.0 is not supported; expected a number above 0 or None"),
        ({"log_zero_guard_value": "big"}, "log_zero_guard_value='big'"),
        ({"max_frequency": 0.0}, "expected more than min_frequency=0.0"),
        ({"exact_pad": True, "hop_length": 161}, "hop_length=161 is not supported; expected an even number"),
    ],
    ids=str,
)
def test_values_that_are_refused(settings: LogMelSettings, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)
