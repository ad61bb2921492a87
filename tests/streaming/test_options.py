"""Options of engines and streams: what is accepted, and what a refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer import DecodingOptions, EngineOptions, StreamOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode='fast' is not supported; expected one of"),
        ({"latency_ms": -1}, "latency_ms=-1 is not supported; expected more than 0, or None"),
        ({"latency_ms": float("nan")}, "latency_ms=nan"),
        ({"left_seconds": 1.0}, "chunk_seconds, right_seconds=None is not supported; expected seconds, together with"),
        ({"left_seconds": 1.0, "chunk_seconds": 0, "right_seconds": 1.0}, "chunk_seconds=0"),
        ({"left_seconds": -1.0, "chunk_seconds": 1.0, "right_seconds": 1.0}, "left_seconds=-1.0"),
        (
            {"mode": "cached", "left_seconds": 1.0, "chunk_seconds": 1.0, "right_seconds": 1.0},
            "mode='cached' is not supported; expected 'buffered' or 'auto'",
        ),
        ({"latency_ms": 100, "attention_context": [70, 1]}, "latency_ms and attention_context='both given'"),
        ({"is_exact": 1.5}, "is_exact=1.5"),
        ({"max_streams": 0}, "max_streams=0"),
        ({"max_load": 0}, "max_load=0"),
        ({"decoding": None}, "decoding=None is not supported; expected DecodingOptions"),
        ({"decoding": DecodingOptions(language=["en", "de"])}, "expected one code, or None"),
        ({"normalization": 3}, "normalization=3"),
    ],
)
def test_engine_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_rate": 0}, "sampling_rate=0"),
        ({"channels": -1}, "channel"),
        ({"language": 3}, "language=3 is not supported; expected the code of a language, or None"),
        ({"endpointing": True}, "endpointing=True is not supported; expected EndpointingOptions or None"),
    ],
)
def test_stream_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamOptions(**options)


def test_options_can_be_told_apart_and_kept_in_sets() -> None:
    assert EngineOptions(attention_context=[70, 1]) == EngineOptions(attention_context=(70, 1))
    assert len({StreamOptions(), StreamOptions(), StreamOptions(language="de-DE")}) == 2
