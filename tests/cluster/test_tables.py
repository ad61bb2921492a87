"""Transcripts as rows whose columns have the same types whatever they hold."""

from __future__ import annotations

import pytest
from records import make_record

from transformers_fastconformer.cluster.tables import COLUMNS, describe_error, describe_transcript, to_table
from transformers_fastconformer.inference.transcript import Transcript

pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")


def test_times_count_from_the_start_of_the_file() -> None:
    transcript = make_record(confident=True).transcript
    row = describe_transcript(transcript, 10.1)
    assert list(row) == list(COLUMNS)
    assert row["words"][0] == "Who"
    assert (row["word_starts"][0], row["word_ends"][0], row["word_confidences"][0]) == (10.18, 10.42, 0.1235)
    assert len(row["words"]) == len(row["word_starts"]) == len(row["word_ends"]) == len(row["word_confidences"])
    assert (row["segments"], row["segment_starts"]) == (["Who <is> it? Go on;"], [10.18])
    assert row["error"] is None


def test_types_are_those_of_the_columns() -> None:
    bare = describe_transcript(Transcript("", None, 0.5), 0.0)
    assert bare["words"] is bare["segments"] is None
    silent = describe_transcript(Transcript("", {"word": [], "segment": []}, 0.5), 0.0)
    assert silent["words"] == silent["word_starts"] == []
    full = describe_transcript(make_record(confident=True).transcript, 0.0)
    failed = describe_error(ValueError("no audio"))
    tables = [to_table([row], {"id": [1]}) for row in (bare, silent, full, failed)]
    assert all(table.schema == tables[0].schema for table in tables)
    assert to_table([]).schema.names == list(COLUMNS)
    assert tables[3].to_pylist() == [{"id": 1, **dict.fromkeys(COLUMNS), "error": "no audio"}]
    assert describe_error(MemoryError())["error"] == "MemoryError"
