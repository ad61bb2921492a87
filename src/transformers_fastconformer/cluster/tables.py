"""Transcripts as rows of a table: a column for the text, for words and for their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..inference.transcript import Transcript
from ..writers.record import CONFIDENCE_DIGITS, TranscriptRecord, timed_words
from .packages import import_arrow

# Name of each column and its type, as `pyarrow` has it; `[]` is a list.
COLUMNS = {
    "pred_text": "string",
    "words": "string[]",
    "word_starts": "float64[]",
    "word_ends": "float64[]",
    "word_confidences": "float64[]",
    "segments": "string[]",
    "segment_starts": "float64[]",
    "segment_ends": "float64[]",
    "confidence": "float64",
    "language": "string",
    "duration_seconds": "float64",
    "strategy": "string",
    "error": "string",
}


def describe_transcript(transcript: Transcript, start_seconds: float) -> dict[str, Any]:
    """
    A row of the columns; those that were not asked for are None.

    Args:
        transcript: The transcript.
        start_seconds: Start of its clip in the file, from which times count.
    """
    record = TranscriptRecord(transcript, "", start_seconds=start_seconds)
    levels = transcript.timestamps or {}
    words = timed_words(record) if "word" in levels else None
    segments = record.timed_items("segment") if "segment" in levels else None
    confidence = transcript.confidence
    return {
        "pred_text": transcript.text,
        "words": _pick(words, "word"),
        "word_starts": _pick(words, "start"),
        "word_ends": _pick(words, "end"),
        "word_confidences": _pick(words, "confidence") if words and "confidence" in words[0] else None,
        "segments": _pick(segments, "segment"),
        "segment_starts": _pick(segments, "start"),
        "segment_ends": _pick(segments, "end"),
        "confidence": None if confidence is None else round(confidence, CONFIDENCE_DIGITS),
        "language": transcript.language,
        "duration_seconds": transcript.duration_seconds,
        "strategy": transcript.strategy,
        "error": None,
    }


def _pick(items: Sequence[Mapping[str, Any]] | None, name: str) -> list[Any] | None:
    return None if items is None else [item[name] for item in items]


def describe_error(error: Exception) -> dict[str, Any]:
    """A row that has only an error."""
    return {**dict.fromkeys(COLUMNS), "error": str(error) or type(error).__name__}


def to_table(rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any] | None = None) -> Any:
    """
    A `pyarrow.Table` of rows, whose types are the same whatever the rows hold.

    Args:
        rows: Rows of `describe_transcript` and `describe_error`.
        first: Columns that come before, arrays or lists by name.
    """
    arrow = import_arrow()
    columns = dict(first or {})
    for name, kind in COLUMNS.items():
        item = getattr(arrow, kind.removesuffix("[]"))()
        values = [row[name] for row in rows]
        columns[name] = arrow.array(values, arrow.list_(item) if kind.endswith("[]") else item)
    return arrow.table(columns)
