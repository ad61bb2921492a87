"""Transcripts as JSON: all that is known of a transcript, or a line of a manifest as NeMo reads and writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..version import __version__
from .record import CONFIDENCE_DIGITS, SECONDS_DIGITS, TranscriptRecord, timed_words

PACKAGE_NAME = "transformers-fastconformer"


def format_json(record: TranscriptRecord, indent: int | None = None) -> str:
    """All that is known of a transcript: text, words, sentences, confidences, times of tokens, model and options."""
    return _dump(_describe(record), indent)


def format_manifest_line(record: TranscriptRecord) -> str:
    """The line of the manifest that the clip comes from, or a new one, with `pred_text`."""
    transcript = record.transcript
    line: dict[str, Any]
    if record.manifest is not None:
        line = dict(record.manifest)
    else:
        line = {"audio_filepath": record.file, "duration": round(transcript.duration_seconds, SECONDS_DIGITS)}
    if transcript.channel != "mix":
        line["channel"] = transcript.channel
    line["pred_text"] = transcript.text
    return _dump(line)


def _dump(value: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n"


def _describe(record: TranscriptRecord) -> dict[str, Any]:
    transcript = record.transcript
    confidence = transcript.confidence
    return {
        "file": record.file,
        "channel": transcript.channel,
        "start_seconds": record.start_seconds,
        "duration_seconds": transcript.duration_seconds,
        "text": transcript.text,
        **({} if transcript.language is None else {"language": transcript.language}),
        "confidence": None if confidence is None else round(confidence, CONFIDENCE_DIGITS),
        "segments": [
            {("text" if name == "segment" else name): value for name, value in item.items()} | _language_of(given)
            for item, given in zip(record.timed_items("segment"), record.items("segment"), strict=True)
        ],
        "words": timed_words(record),
        # In the form of `batch_decode`: from the start of the clip, with encoder frames.
        "timestamps": transcript.timestamps or {},
        "strategy": transcript.strategy,
        **({} if transcript.speech is None else {"speech": _describe_speech(record)}),
        "model": dict(record.model),
        "options": dict(record.options),
        "package": {"name": PACKAGE_NAME, "version": __version__},
        **({} if record.manifest is None else {"manifest": dict(record.manifest)}),
    }


def _language_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """The language of a segment, where it was asked for."""
    return {"language": item["language"]} if "language" in item else {}


def _describe_speech(record: TranscriptRecord) -> list[dict[str, float]]:
    """Stretches in which something is said, in seconds of the file."""
    return [
        {"start": record.file_seconds(start), "end": record.file_seconds(end)}
        for start, end in record.transcript.speech or []
    ]
