"""
Line formats of NIST's tools: CTM, one word a line, and RTTM, one turn of a speaker a line.

Fields are split at spaces and channels count from 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import PurePath

from .record import TranscriptRecord, Word, timed_words

# A field of RTTM that is not known.
NOT_KNOWN = "<NA>"


def format_ctm(record: TranscriptRecord) -> str:
    """One word a line: file, channel, start, duration, word, and its confidence if it is known."""
    name, channel = _recording_name(record), _channel_number(record)
    lines = []
    for word in sorted(timed_words(record), key=lambda word: word["start"]):  # speakers may talk at the same time
        line = f"{name} {channel} {word['start']:.3f} {word['end'] - word['start']:.3f} {one_field(word['word'])}"
        lines.append(f"{line} {word['confidence']:.4f}" if "confidence" in word else line)
    return "".join(line + "\n" for line in lines)


def format_rttm(record: TranscriptRecord, pause_seconds: float) -> str:
    """A line for each stretch without a pause of that length: file, channel, start, duration, speaker."""
    name, channel = _recording_name(record), _channel_number(record)
    items = timed_words(record) or record.timed_items("segment")
    lines = []
    for _, said in groupby(items, key=lambda item: item.get("speaker")):
        stretch = list(said)
        # Where speakers are not known, each channel stands for one.
        speaker = stretch[0].get("speaker", f"speaker_{channel - 1}")
        lines += [
            rttm_line(name, channel, start, end, speaker) for start, end in speech_segments(stretch, pause_seconds)
        ]
    return "".join(lines)


def rttm_line(name: str, channel: int, start: float, end: float, speaker: str) -> str:
    """
    A line of RTTM: a stretch of one speaker.

    Args:
        name: Name of the recording, without spaces.
        channel: From 1.
        start, end: In seconds.
        speaker: Its name, without spaces.
    """
    fields = ["SPEAKER", name, channel, f"{start:.3f}", f"{end - start:.3f}", NOT_KNOWN, NOT_KNOWN, speaker]
    return " ".join(map(str, [*fields, NOT_KNOWN, NOT_KNOWN])) + "\n"


def speech_segments(words: Sequence[Word], pause_seconds: float) -> Iterator[tuple[float, float]]:
    """Start and end of each stretch of words without a pause of that length."""
    start = end = None
    for word in words:
        if start is None or end is None:
            start, end = word["start"], word["end"]
        elif word["start"] - end >= pause_seconds:
            yield start, end
            start, end = word["start"], word["end"]
        else:
            end = max(end, word["end"])
    if start is not None and end is not None:
        yield start, end


def one_field(text: str) -> str:
    """Text as a field of a line. A line of CTM that begins with two semicolons would be a comment."""
    joined = re.sub(r"\s+", "_", text.strip())
    return re.sub(r"^;;", "__", joined) or NOT_KNOWN


def _recording_name(record: TranscriptRecord) -> str:
    return one_field(record.name or PurePath(record.file).stem)


def _channel_number(record: TranscriptRecord) -> int:
    channel = record.transcript.channel
    return channel + 1 if isinstance(channel, int) else 1
