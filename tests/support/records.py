"""A transcript with times, to be written in any format."""

from __future__ import annotations

from typing import Any

from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.writers.record import TranscriptRecord

WORDS = (("Who", 0.08, 0.32), ("<is>", 0.4, 0.4), ("it?", 0.48, 1.2), ("Go", 4.0, 4.16), ("on;", 4.24, 4.64))


def item(level: str, text: str, start: float, end: float) -> dict[str, Any]:
    offsets = {"start_offset": round(start / 0.08), "end_offset": round(end / 0.08)}
    return {level: text, **offsets, "start": start, "end": end}


def make_record(
    words: tuple[tuple[str, float, float], ...] = WORDS, confident: bool = False, **options: Any
) -> TranscriptRecord:
    text = " ".join(word for word, _, _ in words)
    transcript = Transcript(
        text,
        {
            "char": [item("char", word, start, end) for word, start, end in words],
            "word": [item("word", word, start, end) for word, start, end in words],
            "segment": [item("segment", text, words[0][1], words[-1][2])] if words else [],
        },
        5.0,
        strategy=options.pop("strategy", "full"),
        channel=options.pop("channel", "mix"),
        confidence=0.25 if confident else None,
        word_confidences=[0.123456] * len(words) if confident else None,
    )
    return TranscriptRecord(transcript, options.pop("file", "calls/monday one.wav"), **options)
