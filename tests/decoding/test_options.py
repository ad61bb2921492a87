"""Options of decoding are checked when they are made, by name."""

from __future__ import annotations

import dataclasses

import pytest

from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.options import DEFAULT_DECODING, DecodingOptions


def test_the_default_asks_for_nothing():
    assert DecodingOptions() == DEFAULT_DECODING
    assert all(value is None for value in dataclasses.asdict(DEFAULT_DECODING).values())


def test_what_is_accepted():
    options = DecodingOptions(["de", "en"], 3, ConfidenceOptions(), "greedy")
    assert options.language == ("de", "en")
    assert hash(options) == hash(DecodingOptions(("de", "en"), 3, ConfidenceOptions(), "greedy"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.language = "fr"  # type: ignore[misc]


@pytest.mark.parametrize(
    "options",
    [
        {"language": 3},
        {"language": ["de", None]},
        {"max_symbols_per_step": 0},
        {"max_symbols_per_step": 2.0},
        {"max_symbols_per_step": True},
        {"decoding_strategy": "beam"},
        {"decoding_strategy": True},
        {"confidence": True},
        {"confidence": {"method": "entropy"}},
    ],
)
def test_what_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}=.* is not supported; expected"):
        DecodingOptions(**options)
