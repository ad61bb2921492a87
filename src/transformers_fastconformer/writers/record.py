"""A transcript with what is known of it, and its items with times in the file: all writers start here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..inference.file import Transcript

Word = dict[str, Any]

CONFIDENCE_DIGITS = 4
# Times in seconds are rounded to microseconds, which hides how floats are added.
SECONDS_DIGITS = 6


@dataclass(frozen=True)
class TranscriptRecord:
    """
    A transcript and what is known of how it was made.

    Args:
        transcript: What was said, with the levels `"word"`, `"segment"` and `"char"` of times.
        file: Name of the audio: a path, an address.
        name: Name of the recording in files about several; None: the name of the audio file without its ending.
        start_seconds: Start of the clip in the file. Times in all formats count from the start of the file.
        model: Facts about the model.
        options: Those that the transcript depends on.
        manifest: The line of a manifest that the clip comes from.
    """

    transcript: Transcript
    file: str
    name: str | None = None
    start_seconds: float = 0.0
    model: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] | None = None

    def items(self, level: str) -> list[dict[str, Any]]:
        """Items of a level of times as decoding gave them, whose times count from the start of the clip."""
        return (self.transcript.timestamps or {}).get(level, [])

    def timed_items(self, level: str) -> list[dict[str, Any]]:
        """Text, `start` and `end` of the items of a level, in seconds from the start of the file."""
        return [
            {level: item[level], "start": self.file_seconds(item["start"]), "end": self.file_seconds(item["end"])}
            for item in self.items(level)
        ]

    def file_seconds(self, clip_seconds: float) -> float:
        """A time of the clip as a time of the file."""
        return round(float(clip_seconds) + self.start_seconds, SECONDS_DIGITS)


def timed_words(record: TranscriptRecord) -> list[Word]:
    """Words with `start` and `end` in seconds of the file, and `confidence` where there is one."""
    words = record.timed_items("word")
    confidences = record.transcript.word_confidences
    # Words of the text and words with times are counted by different rules of NeMo's; only where they agree is it
    # known which confidence belongs to which word.
    if confidences is not None and len(confidences) == len(words):
        for word, confidence in zip(words, confidences, strict=True):
            word["confidence"] = round(confidence, CONFIDENCE_DIGITS)
    return words
