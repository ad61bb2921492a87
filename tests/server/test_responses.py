from __future__ import annotations

import json
from typing import Any

import pytest

from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.server.fields import FileRequest
from transformers_fastconformer.server.responses import split_text, write_body


def timed(level: str, *items: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [
        {level: text, "start": start / 10, "end": end / 10, "start_offset": start, "end_offset": end}
        for text, start, end in items
    ]


TRANSCRIPT = Transcript(
    text="One two. Three.",
    timestamps={
        "token": timed("token", ("a", 0, 2), ("b", 3, 4), ("c", 7, 9)),
        "char": timed("char", ("One", 0, 2), (" two.", 3, 4), (" Three.", 7, 9)),
        "word": timed("word", ("One", 0, 2), ("two.", 3, 4), ("Three.", 7, 9)),
        "segment": timed("segment", ("One two.", 0, 4), ("Three.", 7, 9)),
    },
    duration_seconds=1.04,
    token_ids=[5, 6, 7],
)


def body_of(**fields: Any) -> Any:
    return json.loads(write_body(TRANSCRIPT, FileRequest(response_format="verbose_json", **fields), None))  # type: ignore[arg-type]


def test_verbose_json_has_what_was_asked_for() -> None:
    words = body_of(granularities=("word",))
    assert "segments" not in words
    assert words["words"][1] == {"word": "two.", "start": 0.3, "end": 0.4}
    assert words["usage"] == {"type": "duration", "seconds": 2}
    segments = body_of(language="fr")
    assert "words" not in segments
    assert segments["language"] == "french"
    assert [(one["id"], one["text"], one["tokens"]) for one in segments["segments"]] == [
        (0, "One two.", [5, 6]),
        (1, "Three.", [7]),
    ]
    assert body_of(is_translation=True)["task"] == "translate"


@pytest.mark.parametrize("text", ["One two. Three.", "", "no segment is in it"])
def test_the_deltas_are_the_text(text: str) -> None:
    pieces = split_text(Transcript(text, TRANSCRIPT.timestamps, 1.0))
    assert "".join(pieces) == text
    if text == TRANSCRIPT.text:
        assert pieces == ["One two. ", "Three."]
