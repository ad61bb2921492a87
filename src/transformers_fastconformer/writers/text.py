"""Transcripts as plain text."""

from __future__ import annotations

from .record import TranscriptRecord


def format_text(record: TranscriptRecord) -> str:
    """The text in one line."""
    return record.transcript.text + "\n"
