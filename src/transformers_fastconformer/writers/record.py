"""A transcript with what is known of it, and its items with times in the file: the input of all writers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..inference.file import Transcript

Word = dict[str, Any]

CONFIDENCE_DIGITS = 4
# Times in seconds are rounded to microseconds, which hides the rounding errors of sums.
SECONDS_DIGITS = 6


@dataclass(frozen=True)
class TranscriptRecord:
    """
    A transcript together with its audio, model and options.

    Args:
        transcript: The transcript, with the levels `"word"`, `"segment"` and `"char"` of times, as far as it has them.
        file: Name of the audio: a path or a URL.
        name: Name of the recording in files about several; None: the name of the audio file without its ending.
        start_seconds: Start of the clip in the file, in seconds. Times in all formats count from the start of the
            file.
        model: Facts about the model, by name.
        options: Options that the transcript depends on, by name.
        manifest: The line of a manifest that the clip comes from, if there is one.
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
        """Text, `start` and `end` of the items of a level, in seconds from the start of the file, and its speaker."""
        return [
            {level: item[level], "start": self.file_seconds(item["start"]), "end": self.file_seconds(item["end"])}
            | speaker_of(item)
            for item in self.items(level)
        ]

    def file_seconds(self, clip_seconds: float) -> float:
        """A time of the clip as a time of the file."""
        return round(float(clip_seconds) + self.start_seconds, SECONDS_DIGITS)


def speaker_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """The speaker of a word or segment, where it is known."""
    return {"speaker": item["speaker"]} if "speaker" in item else {}


def spread_words(record: TranscriptRecord) -> list[Word]:
    """
    Words of the segments of a transcript whose words have no times, such as a translation, for subtitles.

    Each word has the share of its segment's time that its characters are of the segment's.
    """
    words: list[Word] = []
    for segment in record.timed_items("segment"):
        texts = segment["segment"].split()
        num_characters = sum(map(len, texts))
        seconds_each = (segment["end"] - segment["start"]) / max(num_characters, 1)
        done = 0
        for text in texts:
            start = segment["start"] + done * seconds_each
            done += len(text)
            end = segment["start"] + done * seconds_each
            times = {"start": round(start, SECONDS_DIGITS), "end": round(end, SECONDS_DIGITS)}
            words.append({"word": text, **times, **speaker_of(segment)})
    return words


def timed_words(record: TranscriptRecord) -> list[Word]:
    """Words with `start` and `end` in seconds of the file, and `confidence` where it is known."""
    words = record.timed_items("word")
    confidences = record.transcript.word_confidences
    # NeMo counts the words of the text and the words with times by different rules; only if the counts agree is it
    # known which confidence belongs to which word.
    if confidences is not None and len(confidences) == len(words):
        for word, confidence in zip(words, confidences, strict=True):
            word["confidence"] = round(confidence, CONFIDENCE_DIGITS)
    return words
