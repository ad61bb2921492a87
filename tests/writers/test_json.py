"""JSON and lines of manifests, read back."""

from __future__ import annotations

import json

import pytest
from records import make_record

from transformers_fastconformer import __version__
from transformers_fastconformer.writers.json import format_json, format_manifest_line


@pytest.mark.parametrize("indent", [None, 1])
def test_json_holds_everything(indent: int | None) -> None:
    record = make_record(
        confident=True,
        start_seconds=10.0,
        channel=1,
        strategy="chunked",
        model={"name": "digits"},
        options={"language": None},
        manifest={"audio_filepath": "x", "speaker": "A"},
    )
    text = format_json(record, indent)
    assert text.endswith("}\n")
    assert (text.count("\n") == 1) == (indent is None)
    found = json.loads(text)
    assert found["text"] == "Who <is> it? Go on;"
    assert found["file"] == "calls/monday one.wav"
    assert (found["channel"], found["start_seconds"], found["duration_seconds"]) == (1, 10.0, 5.0)
    assert found["words"][3] == {"word": "Go", "start": 14.0, "end": 14.16, "confidence": 0.1235}
    assert found["segments"] == [{"text": "Who <is> it? Go on;", "start": 10.08, "end": 14.64}]
    assert found["timestamps"]["word"][3]["start_offset"] == 50  # of the clip, as decoding counts
    assert (found["confidence"], found["strategy"]) == (0.25, "chunked")
    assert (found["model"], found["options"]) == ({"name": "digits"}, {"language": None})
    assert found["package"] == {"name": "transformers-fastconformer", "version": __version__}
    assert found["manifest"] == {"audio_filepath": "x", "speaker": "A"}


def test_a_line_of_a_manifest_keeps_its_fields() -> None:
    entry = {"audio_filepath": "a.wav", "duration": 5, "text": "wer", "speaker": "é", "pred_text": "old"}
    line = format_manifest_line(make_record(manifest=entry))
    assert json.loads(line) == {**entry, "pred_text": "Who <is> it? Go on;"}
    assert "é" in line
    assert json.loads(format_manifest_line(make_record(channel=0))) == {
        "audio_filepath": "calls/monday one.wav",
        "duration": 5.0,
        "channel": 0,
        "pred_text": "Who <is> it? Go on;",
    }
