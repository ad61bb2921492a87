"""
Transcripts to the files that others read: text, JSON, subtitles, tables, and the line formats of speech research.

| format | what it holds |
|---|---|
| `txt` | the text |
| `json` | everything: text, words, segments, confidences, times of tokens, model, options |
| `srt`, `vtt` | subtitles, by `SubtitleRules` |
| `tsv` | start and end of each subtitle in milliseconds, and its text in one line |
| `ctm` | a word a line, as NIST's scoring tools read it: file, channel, start, duration, word, confidence |
| `rttm` | where something is said, as NIST's format of speaker turns has it: file, channel, start, duration |
| `jsonl` | a line of a manifest as NeMo reads and writes it, with `pred_text` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from ..inference.file import Transcript
from ..version import __version__
from .subtitles import DEFAULT_RULES, SubtitleRules, Word, format_subtitles, lay_out_subtitles, split_long_words

FORMATS = ("txt", "json", "srt", "vtt", "tsv", "ctm", "rttm", "jsonl")
# Those whose contents name the audio, or are a line a file: several files may stand in one stream.
STREAM_FORMATS = ("txt", "json", "ctm", "rttm", "jsonl")
TIMED_FORMATS = ("json", "srt", "vtt", "tsv", "ctm", "rttm")
CONFIDENT_FORMATS = ("json", "ctm")

# What stands in RTTM for a field that is not known.
NOT_KNOWN = "<NA>"
CONFIDENCE_DIGITS = 4


@dataclass(frozen=True)
class TranscriptRecord:
    """
    A transcript and what is known of how it came about.

    Args:
        transcript: What was said, with the levels `"word"`, `"segment"` and `"char"` of times.
        file: What the audio is called: a path, an address.
        name: What it is called in files about several recordings; None: its file name without the ending.
        start_seconds: Where in the file the clip begins. Times in all formats count from the start of the file.
        model: What there is to say about the model.
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


def format_transcript(
    record: TranscriptRecord, transcript_format: str, rules: SubtitleRules = DEFAULT_RULES, indent: int | None = None
) -> str:
    """
    The contents of a file, which end with a line's end.

    Args:
        record: What to write.
        transcript_format: One of `FORMATS`.
        rules: Options of subtitles; a pause of theirs also parts what `rttm` holds.
        indent: Spaces that `json` is indented by; None: one line.

    Raises:
        ValueError: for another format, and for one that needs times where there are none.
    """
    if transcript_format not in FORMATS:
        raise ValueError(f"transcript_format={transcript_format!r} is not supported; expected one of {FORMATS}.")
    transcript = record.transcript
    if transcript_format == "txt":
        return transcript.text + "\n"
    if transcript_format == "jsonl":
        return _json(_manifest_line(record)) + "\n"
    if transcript.timestamps is None or "word" not in transcript.timestamps:
        raise ValueError(f"transcript_format={transcript_format!r} needs the times of words; found none.")
    if transcript_format == "json":
        return _json(_describe(record), indent) + "\n"
    if transcript_format in ("ctm", "rttm"):
        lines = _ctm_lines(record) if transcript_format == "ctm" else _rttm_lines(record, rules.pause_seconds)
        return "".join(line + "\n" for line in lines)
    words = _subtitle_words(record, rules)
    if transcript_format == "tsv":
        return "".join(line + "\n" for line in _tsv_lines(words, rules))
    return format_subtitles(words, transcript_format, rules)


def timed_words(record: TranscriptRecord) -> list[Word]:
    """Words with `start` and `end` in seconds of the file, and `confidence` where there is one."""
    transcript = record.transcript
    words = [_shift(item, "word", record.start_seconds) for item in (transcript.timestamps or {}).get("word", [])]
    confidences = transcript.word_confidences
    # Words of the text and words with times are counted by different rules of NeMo's; only where they agree is it
    # known which confidence is whose.
    if confidences is not None and len(confidences) == len(words):
        for word, confidence in zip(words, confidences, strict=True):
            word["confidence"] = round(confidence, CONFIDENCE_DIGITS)
    return words


def speech_segments(words: Sequence[Word], pause_seconds: float) -> Iterator[tuple[float, float]]:
    """Start and end of what is said without a pause of such a length."""
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


def _json(value: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)


def _shift(item: Mapping[str, Any], level: str, seconds: float) -> dict[str, Any]:
    """Text and times of an item, which count from the start of the clip, from that of the file."""
    return {
        level: item[level],
        "start": round(float(item["start"]) + seconds, 6),
        "end": round(float(item["end"]) + seconds, 6),
    }


def _subtitle_words(record: TranscriptRecord, rules: SubtitleRules) -> list[Word]:
    characters = (record.transcript.timestamps or {}).get("char", [])
    return split_long_words(
        timed_words(record), [_shift(item, "char", record.start_seconds) for item in characters], rules
    )


def _describe(record: TranscriptRecord) -> dict[str, Any]:
    transcript = record.transcript
    timestamps = transcript.timestamps or {}
    confidence = transcript.confidence
    return {
        "file": record.file,
        "channel": transcript.channel,
        "start_seconds": record.start_seconds,
        "duration_seconds": transcript.duration_seconds,
        "text": transcript.text,
        "confidence": None if confidence is None else round(confidence, CONFIDENCE_DIGITS),
        "segments": _segments(record),
        "words": timed_words(record),
        # As `batch_decode` gives them: from the start of the clip, with encoder frames.
        "timestamps": timestamps,
        "strategy": transcript.strategy,
        **({} if transcript.speech is None else {"speech": _speech(record)}),
        "model": dict(record.model),
        "options": dict(record.options),
        "package": {"name": "transformers-fastconformer", "version": __version__},
        **({} if record.manifest is None else {"manifest": dict(record.manifest)}),
    }


def _segments(record: TranscriptRecord) -> list[dict[str, Any]]:
    """Sentences, with times in seconds of the file."""
    shifted = (
        _shift(item, "segment", record.start_seconds)
        for item in (record.transcript.timestamps or {}).get("segment", [])
    )
    return [{"text": item["segment"], "start": item["start"], "end": item["end"]} for item in shifted]


def _speech(record: TranscriptRecord) -> list[dict[str, float]]:
    """Where something is said, in seconds of the file."""
    return [
        {"start": round(start + record.start_seconds, 6), "end": round(end + record.start_seconds, 6)}
        for start, end in record.transcript.speech or []
    ]


def _manifest_line(record: TranscriptRecord) -> dict[str, Any]:
    transcript = record.transcript
    line: dict[str, Any]
    if record.manifest is not None:
        line = dict(record.manifest)
    else:
        line = {"audio_filepath": record.file, "duration": round(transcript.duration_seconds, 6)}
    if transcript.channel != "mix":
        line["channel"] = transcript.channel
    line["pred_text"] = transcript.text
    return line


def _tsv_lines(words: Sequence[Word], rules: SubtitleRules) -> Iterator[str]:
    yield "start\tend\ttext"
    for start, end, lines in lay_out_subtitles(words, rules):
        text = re.sub(r"\s+", " ", " ".join(lines))
        yield f"{round(1000 * start)}\t{round(1000 * end)}\t{text}"


def _one_field(text: str) -> str:
    """Text as a field of a line that is split at spaces; a line of CTM that begins with two semicolons is none."""
    joined = re.sub(r"\s+", "_", text.strip())
    return re.sub(r"^;;", "__", joined) or NOT_KNOWN


def _recording_name(record: TranscriptRecord) -> str:
    return _one_field(record.name or PurePath(record.file).stem)


def _channel_number(record: TranscriptRecord) -> int:
    """Channels count from 1 in NIST's formats."""
    channel = record.transcript.channel
    return channel + 1 if isinstance(channel, int) else 1


def _ctm_lines(record: TranscriptRecord) -> Iterator[str]:
    name, channel = _recording_name(record), _channel_number(record)
    for word in timed_words(record):
        line = f"{name} {channel} {word['start']:.3f} {word['end'] - word['start']:.3f} {_one_field(word['word'])}"
        yield f"{line} {word['confidence']:.4f}" if "confidence" in word else line


def _rttm_lines(record: TranscriptRecord, pause_seconds: float) -> Iterator[str]:
    name, channel = _recording_name(record), _channel_number(record)
    # Who speaks is not known, except that channels are speakers.
    speaker = f"speaker_{channel - 1}"
    for start, end in speech_segments(timed_words(record), pause_seconds):
        fields = ["SPEAKER", name, channel, f"{start:.3f}", f"{end - start:.3f}"]
        yield " ".join(map(str, [*fields, NOT_KNOWN, NOT_KNOWN, speaker, NOT_KNOWN, NOT_KNOWN]))
