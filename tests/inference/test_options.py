"""Options of transcription: checked when they are made, given whole or one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from transformers_fastconformer import (
    ChunkOptions,
    ConfidenceOptions,
    DecodingOptions,
    TranscriptionOptions,
    VoiceActivityOptions,
)


def test_fields_by_name_go_to_their_objects() -> None:
    options = TranscriptionOptions.of(
        None, {"language": "de", "strategy": "local", "batch_size": 3, "timestamps": None}
    )
    expected = TranscriptionOptions(DecodingOptions("de"), ChunkOptions("local"), timestamps=False, batch_size=3)
    assert options == expected


def test_fields_by_name_go_before_those_of_the_object() -> None:
    given = TranscriptionOptions(DecodingOptions("de", max_symbols_per_step=4), batch_size=3)
    assert TranscriptionOptions.of(given, {"language": "fr"}).decoding == DecodingOptions("fr", max_symbols_per_step=4)
    assert TranscriptionOptions.of(given, {}) == given
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.batch_size = 4  # type: ignore[misc]


def test_every_field_of_decoding_and_chunks_has_a_name_at_the_door() -> None:
    for kind in (DecodingOptions, ChunkOptions):
        for item in dataclasses.fields(kind):
            TranscriptionOptions.of(None, {item.name: getattr(kind(), item.name)})


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"beams": 3}, "beams: not an option of transcription; expected some of timestamps"),
        ({"decoding": 3}, "decoding=3 is not supported; expected DecodingOptions"),
        ({"voice_activity": True}, "voice_activity=True is not supported; expected VoiceActivityOptions or None"),
        ({"timestamps": "sentence"}, "timestamps='sentence' is not supported; expected a bool or some of"),
        ({"timestamps": 3}, "timestamps=3 is not supported; expected a bool or some of"),
        ({"batch_size": 0}, "batch_size=0 is not supported; expected an integer of 1 or more"),
        ({"batch_size": None}, "batch_size=None is not supported"),
        ({"batch_seconds": float("inf")}, "batch_seconds=inf is not supported"),
        ({"num_workers": -1}, "num_workers=-1 is not supported; expected an integer from 0 to 256"),
        ({"strategy": "best"}, "strategy='best' is not supported; expected one of"),
        ({"strategy": ["full"]}, "strategy=.* is not supported; expected one of"),
        ({"chunk_length_s": "x"}, "chunk_length_s='x' is not supported"),
        ({"chunk_length_s": 8.0, "stride_length_s": (1.0, 2.0, 3.0)}, "stride_length_s=.* is not supported"),
        ({"search": 3, "top_k": 5}, "search=3 is not supported; expected SearchOptions or None"),
        ({"stride_length_s": 1.0}, "stride_length_s=1.0 needs chunk_length_s"),
        ({"strategy": "full", "chunk_length_s": 8.0}, "chunk_length_s=8.0 is not supported with strategy='full'"),
    ],
)
def test_what_is_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TranscriptionOptions.of(None, keywords)


def test_what_a_transcript_depends_on_is_described_as_plain_values() -> None:
    assert TranscriptionOptions().describe() == {
        "strategy": "auto",
        "chunk_length_s": None,
        "stride_length_s": None,
        "language": None,
    }
    options = TranscriptionOptions(
        DecodingOptions("de", 3, ConfidenceOptions()), voice_activity=VoiceActivityOptions(), batch_size=2
    )
    described = options.describe()
    assert described["language"] == "de"
    assert described["max_symbols_per_step"] == 3
    assert described["voice_activity"]["threshold"] == 0.5
    assert "confidence" not in described
    assert "batch_size" not in described


def test_options_can_be_keys() -> None:
    lists = {"timestamps": ["word"], "chunk_length_s": 9.0, "stride_length_s": [1, 1], "language": ["de"]}
    tuples = {"timestamps": ("word",), "chunk_length_s": 9.0, "stride_length_s": (1, 1), "language": ("de",)}
    assert len({TranscriptionOptions.of(None, lists), TranscriptionOptions.of(None, tuples)}) == 1
