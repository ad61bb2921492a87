"""The table of formats: every row writes, says what it needs, and is what the command knows."""

from __future__ import annotations

import csv
import io
import json

import pysubs2
import pytest
from records import make_record

from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.writers import formats as module
from transformers_fastconformer.writers.formats import (
    FORMATS,
    OUTPUT_FORMATS,
    PAUSE_FORMATS,
    STREAM_FORMATS,
    SUBTITLE_FORMATS,
    TABLE,
    TIMED_FORMATS,
    format_transcript,
    list_formats,
)
from transformers_fastconformer.writers.record import TranscriptRecord
from transformers_fastconformer.writers.subtitles import SubtitleRules


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_subtitles_follow_the_rules_that_are_given(name: str) -> None:
    record = make_record(start_seconds=60.0)
    parsed = pysubs2.SSAFile.from_string(format_transcript(record, name))
    assert [event.start for event in parsed.events] == [60080, 64000]
    one_a_line = format_transcript(record, name, SubtitleRules(max_line_characters=4, max_lines=1))
    assert len(pysubs2.SSAFile.from_string(one_a_line).events) == 5


def test_tsv_is_a_table_in_milliseconds() -> None:
    words = (("a\tb", 0.08, 0.32), ('"c"', 3.0, 3.5))
    rows = list(
        csv.reader(io.StringIO(format_transcript(make_record(words), "tsv")), "excel-tab", quoting=csv.QUOTE_NONE)
    )
    assert rows == [["start", "end", "text"], ["80", "910", "a b"], ["3000", "3830", '"c"']]


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_said(name: str) -> None:
    text = format_transcript(make_record(()), name)
    assert text == "" if name in ("srt", "ctm", "rttm") else text.endswith("\n")


def test_formats_that_need_times_say_so() -> None:
    record = TranscriptRecord(Transcript("one", None, 1.0), "a.wav")
    for name in FORMATS:
        if name in TIMED_FORMATS:
            with pytest.raises(ValueError, match=f"transcript_format='{name}' needs the times of words"):
                format_transcript(record, name)
        else:
            assert "one" in format_transcript(record, name)
    with pytest.raises(ValueError, match="transcript_format='ass' is not supported; expected one of"):
        format_transcript(record, "ass")
    assert set(STREAM_FORMATS) < set(FORMATS)


def test_segments_suffice_where_words_have_no_times() -> None:
    """As of a translation: all formats but the one with a word a line."""
    segments = [
        {"segment": "one three. Two", "start": 1.0, "end": 4.0},
        {"segment": "four", "start": 9.0, "end": 10.0},
    ]
    transcript = Transcript("one three. Two four", {"segment": segments}, 12.0)
    record = TranscriptRecord(transcript, "a.wav", start_seconds=10.0)
    parsed = pysubs2.SSAFile.from_string(format_transcript(record, "srt"))
    assert [(event.start, event.plaintext) for event in parsed.events] == [
        (11000, "one three."), (13250, "Two"), (19000, "four"),
    ]  # fmt: skip
    assert "SPEAKER a 1 11.000 3.000" in format_transcript(record, "rttm")
    found = json.loads(format_transcript(record, "json"))
    assert found["words"] == []
    assert [item["start"] for item in found["segments"]] == [11.0, 19.0]
    with pytest.raises(ValueError, match=r"'ctm' needs the times of words; found none.*suffice for json, srt, vtt"):
        format_transcript(record, "ctm")


def test_the_table_is_sound() -> None:
    assert list(OUTPUT_FORMATS) == [row.name for row in TABLE]
    assert len({row.suffix for row in TABLE}) == len(TABLE)
    assert not set(module.SYNONYMS) & set(FORMATS)
    assert set(SUBTITLE_FORMATS) <= set(PAUSE_FORMATS) <= set(TIMED_FORMATS)
    assert set(module.CONFIDENT_FORMATS) <= set(TIMED_FORMATS)
    assert set(module.UNTITLED_FORMATS) < set(STREAM_FORMATS)
    assert module.MANIFEST_FORMAT in STREAM_FORMATS
    for row in TABLE:
        assert row.name in list_formats()
        assert row.holds
