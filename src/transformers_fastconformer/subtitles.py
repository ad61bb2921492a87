"""Words with times to subtitles: which words stand together, and the files of it (SubRip, WebVTT)."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import pysubs2

# Two lines of 42 characters for at most seven seconds are what broadcasters and streaming services agree on.
MOST_LINE_CHARACTERS = 42
MOST_LINES = 2
MOST_SECONDS = 7.0
# A pause of this length ends a subtitle, as does the end of a sentence.
PAUSE_SECONDS = 1.0
# A word may last no time at all (CTC, durations of 0); a subtitle may not.
FEWEST_SECONDS = 0.5
SENTENCE_ENDS = (".", "?", "!", "\u3002", "\uff1f", "\uff01")  # the last three as in Chinese and Japanese

FORMATS = ("srt", "vtt")

Word = dict[str, Any]


def group_words(words: Sequence[Word]) -> Iterator[list[Word]]:
    """
    Split words into those of one subtitle each.

    Args:
        words: Items with `word`, and `start` and `end` in seconds, as in `Transcript.timestamps["word"]`.
    """
    group: list[Word] = []
    for word in words:
        if group:
            is_sentence_end = group[-1]["word"].endswith(SENTENCE_ENDS)
            is_pause = word["start"] - group[-1]["end"] >= PAUSE_SECONDS
            is_long = word["end"] - group[0]["start"] > MOST_SECONDS
            if is_sentence_end or is_pause or is_long or len(break_lines([*group, word])) > MOST_LINES:
                yield group
                group = []
        group.append(word)
    if group:
        yield group


def break_lines(words: Sequence[Word]) -> list[str]:
    """The lines of at most `MOST_LINE_CHARACTERS` that words fill; a longer word has a line of its own."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word["word"]) <= MOST_LINE_CHARACTERS:
            lines[-1] += " " + word["word"]
        else:
            lines.append(word["word"])
    return lines


def format_subtitles(words: Sequence[Word], subtitle_format: str) -> str:
    """
    A whole subtitle file.

    Args:
        words: As in `group_words`, in the order of their times.
        subtitle_format: One of `FORMATS`.

    Raises:
        ValueError: for another format.
    """
    if subtitle_format not in FORMATS:
        raise ValueError(f"subtitle_format={subtitle_format!r} is not supported; expected one of {FORMATS}.")
    subtitles = pysubs2.SSAFile()
    groups = list(group_words(words))
    for index, group in enumerate(groups):
        start, end = float(group[0]["start"]), max(float(word["end"]) for word in group)
        end = max(end, start + FEWEST_SECONDS)
        if index + 1 < len(groups):  # the next one takes its place
            end = max(min(end, float(groups[index + 1][0]["start"])), start)
        event = pysubs2.SSAEvent(start=round(1000 * start), end=round(1000 * end))
        # WebVTT has markup of its own; SubRip has no way to write a mark that is none.
        lines = [html.escape(line, quote=False) if subtitle_format == "vtt" else line for line in break_lines(group)]
        event.plaintext = "\n".join(lines)
        subtitles.events.append(event)
    # Braces in a word are no style of the Advanced SubStation format, in which the library thinks.
    return subtitles.to_string(subtitle_format, keep_ssa_tags=True)
