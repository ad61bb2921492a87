"""
The table of output formats, and transcripts written in any of them.

A new format is a row and the function that writes it; the command, its help and its checks read the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..validation import require_choice
from .json import format_json, format_manifest_line
from .nist import format_ctm, format_rttm
from .record import TranscriptRecord, Word
from .subtitles import DEFAULT_RULES, SubtitleRules, format_srt, format_tsv, format_vtt, subtitle_words
from .text import format_text

Writer = Callable[[TranscriptRecord, SubtitleRules, int | None], str]


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """
    A row of the table.

    Args:
        name: Name on the command line.
        suffix: Ending of its files, without the dot.
        holds: Contents, in a few words.
        write: Function of the record, the rules of subtitles, and the spaces to indent by; returns the contents of a
            file, which end with a line break.
        hint: Text that help texts add to the name.
        synonyms: Other names on the command line.
        needs_times: True if it cannot be written without times.
        takes_segments: True if times of segments suffice where words have none.
        carries_confidences: True if confidences are written where a transcript has them.
        fits_in_a_stream: True if several recordings may follow one another: their contents name them, or are one line
            each.
        is_untitled: True if in a stream of several recordings the name of each must be put before it.
        is_subtitles: True if all rules of subtitles apply.
        uses_pauses: True if at least the pause of these rules applies.
        is_manifest: True for the format of the lines of manifests.
    """

    name: str
    suffix: str
    holds: str
    write: Writer
    hint: str = ""
    synonyms: tuple[str, ...] = ()
    needs_times: bool = True
    takes_segments: bool = False
    carries_confidences: bool = False
    fits_in_a_stream: bool = False
    is_untitled: bool = False
    is_subtitles: bool = False
    uses_pauses: bool = False
    is_manifest: bool = False


def _subtitles(format_words: Callable[[Sequence[Word], SubtitleRules], str]) -> Writer:
    """Make a writer of records out of one that writes words."""
    return lambda record, rules, indent: format_words(subtitle_words(record, rules), rules)


TABLE = (
    OutputFormat(
        name="txt",
        suffix="txt",
        holds="the text",
        write=lambda record, rules, indent: format_text(record),
        synonyms=("text",),
        needs_times=False,
        fits_in_a_stream=True,
        is_untitled=True,
    ),
    OutputFormat(
        name="json",
        suffix="json",
        holds="everything: text, words, segments, confidences, times of tokens, model, options",
        write=lambda record, rules, indent: format_json(record, indent),
        takes_segments=True,
        hint="everything",
        carries_confidences=True,
        fits_in_a_stream=True,
    ),
    OutputFormat(
        name="srt",
        suffix="srt",
        holds="subtitles (SubRip)",
        write=_subtitles(format_srt),
        takes_segments=True,
        is_subtitles=True,
        uses_pauses=True,
    ),
    OutputFormat(
        name="vtt",
        suffix="vtt",
        holds="subtitles (WebVTT)",
        write=_subtitles(format_vtt),
        takes_segments=True,
        is_subtitles=True,
        uses_pauses=True,
    ),
    OutputFormat(
        name="tsv",
        suffix="tsv",
        holds="start and end of each subtitle in milliseconds, and its text in one line",
        write=_subtitles(format_tsv),
        takes_segments=True,
        is_subtitles=True,
        uses_pauses=True,
    ),
    OutputFormat(
        name="ctm",
        suffix="ctm",
        holds="a word a line, as NIST's scoring tools read it",
        write=lambda record, rules, indent: format_ctm(record),
        carries_confidences=True,
        fits_in_a_stream=True,
    ),
    OutputFormat(
        name="rttm",
        suffix="rttm",
        holds="turns of speakers, as NIST's tools read them: stretches in which something is said",
        write=lambda record, rules, indent: format_rttm(record, rules.pause_seconds),
        takes_segments=True,
        fits_in_a_stream=True,
        uses_pauses=True,
    ),
    OutputFormat(
        name="jsonl",
        suffix="jsonl",
        holds="a line of a manifest as NeMo reads and writes it, with pred_text",
        write=lambda record, rules, indent: format_manifest_line(record),
        hint="a manifest with pred_text",
        needs_times=False,
        fits_in_a_stream=True,
        is_manifest=True,
    ),
)

OUTPUT_FORMATS = {row.name: row for row in TABLE}
FORMATS = tuple(OUTPUT_FORMATS)
SYNONYMS = {synonym: row.name for row in TABLE for synonym in row.synonyms}
TIMED_FORMATS = tuple(row.name for row in TABLE if row.needs_times)
CONFIDENT_FORMATS = tuple(row.name for row in TABLE if row.carries_confidences)
STREAM_FORMATS = tuple(row.name for row in TABLE if row.fits_in_a_stream)
UNTITLED_FORMATS = tuple(row.name for row in TABLE if row.is_untitled)
SUBTITLE_FORMATS = tuple(row.name for row in TABLE if row.is_subtitles)
PAUSE_FORMATS = tuple(row.name for row in TABLE if row.uses_pauses)
SEGMENT_FORMATS = tuple(row.name for row in TABLE if row.takes_segments)
(MANIFEST_FORMAT,) = (row.name for row in TABLE if row.is_manifest)


def list_formats() -> str:
    """Names with their hints, for help texts."""
    return ", ".join(f"{row.name} ({row.hint})" if row.hint else row.name for row in TABLE)


def format_transcript(
    record: TranscriptRecord, transcript_format: str, rules: SubtitleRules = DEFAULT_RULES, indent: int | None = None
) -> str:
    """
    Write a transcript in one of the output formats.

    Args:
        record: The transcript and what is known of it.
        transcript_format: Name of the format: `"txt"`, `"json"`, `"srt"`, `"vtt"`, `"tsv"`, `"ctm"`, `"rttm"` or
            `"jsonl"`.
        rules: Options of subtitles; their pause also separates the lines of `rttm`.
        indent: Spaces by which `json` is indented; None: one line.

    Returns:
        The contents of a file, which end with a line break.

    Raises:
        ValueError: for another format, and for a format that needs times where the transcript does not have them: of
            words, or at least of segments.
    """
    require_choice("transcript_format", transcript_format, FORMATS)
    row = OUTPUT_FORMATS[transcript_format]
    levels = record.transcript.timestamps or {}
    if row.needs_times and "word" not in levels and not (row.takes_segments and "segment" in levels):
        takers = ", ".join(SEGMENT_FORMATS)
        hint = f" Those of segments, which there are, suffice for {takers}." if "segment" in levels else ""
        raise ValueError(f"transcript_format={transcript_format!r} needs the times of words; found none.{hint}")
    return row.write(record, rules, indent)
