"""Subtitles made of words with times: their words, lines and durations, and files of them (srt, vtt, tsv)."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pysubs2

from ..validation import is_number, require, require_count
from .record import TranscriptRecord, Word, speaker_of, spread_words, timed_words
from .sentence_ends import CLOSING, MARKS, ends_sentence

# What ends a sentence where no space follows.
SPACELESS_ENDS = frozenset(MARKS)
# Files count in milliseconds, and a subtitle that ends where it starts is not shown.
MIN_SHOWN_SECONDS = 0.001


@dataclass(frozen=True)
class SubtitleRules:
    """
    Rules for the layout of subtitles. The defaults are values that most broadcasters and streaming services use.

    Args:
        max_line_characters: Longest line, in characters; a longer word has a line of its own.
        max_lines: Largest number of lines of a subtitle.
        max_seconds: Longest time of a subtitle.
        min_seconds: Shortest time of a subtitle, if the next one leaves enough time.
        max_characters_per_second: Reading speed. A subtitle stays until it can be read at this speed, if the next one
            leaves enough time.
        pause_seconds: A pause of this length ends a subtitle, as does the end of a sentence.
        min_gap_seconds: Time between two subtitles, so that the change is seen: two frames of a film.

    Raises:
        ValueError: for a value that is not accepted; the message names the rule.
    """

    max_line_characters: int = 42
    max_lines: int = 2
    max_seconds: float = 7.0
    min_seconds: float = 0.83
    max_characters_per_second: float = 20.0
    pause_seconds: float = 1.0
    min_gap_seconds: float = 0.08

    def __post_init__(self) -> None:
        for name in ("max_line_characters", "max_lines"):
            require_count(name, getattr(self, name))
        for name in ("min_seconds", "min_gap_seconds"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, name, value, "0 or more")
        for name in ("max_seconds", "max_characters_per_second", "pause_seconds"):
            value = getattr(self, name)
            require(is_number(value) and value > 0, name, value, "more than 0")
        is_longest = self.min_seconds <= self.max_seconds
        require(is_longest, "min_seconds", self.min_seconds, f"at most max_seconds={self.max_seconds}")


DEFAULT_RULES = SubtitleRules()


class Subtitle(NamedTuple):
    """
    One subtitle.

    Args:
        start: Start in seconds.
        end: End in seconds, after the start and not after the start of the next subtitle.
        lines: Its text.
        speaker: Name of its speaker; None where speakers are not known.
    """

    start: float
    end: float
    lines: list[str]
    speaker: str | None = None


def group_words(words: Sequence[Word], rules: SubtitleRules = DEFAULT_RULES) -> Iterator[list[Word]]:
    """
    Group words into subtitles.

    Args:
        words: Items with `word`, and `start` and `end` in seconds, as in `Transcript.timestamps["word"]`. An item with
            `is_continuation` follows the one before it without a space. Items with another `speaker` begin a subtitle.
        rules: Rules for the layout.
    """
    group: list[Word] = []
    for word in words:
        if group:
            is_sentence_end = _is_sentence_end(group, word)
            is_pause = word["start"] - group[-1]["end"] >= rules.pause_seconds
            is_long = word["end"] - group[0]["start"] > rules.max_seconds
            is_other = word.get("speaker") != group[-1].get("speaker")
            if (
                is_sentence_end
                or is_pause
                or is_long
                or is_other
                or len(_fill([*group, word], rules)) > rules.max_lines
            ):
                yield group
                group = []
        group.append(word)
    if group:
        yield group


def _is_sentence_end(group: Sequence[Word], following: Word) -> bool:
    text = group[-1]["word"]
    if not following.get("is_continuation"):
        return ends_sentence(text, following["word"])
    # Text without spaces: its period is one of a name or a number, and closing quotation marks may follow a mark.
    if len(group) > 1 and group[-1].get("is_continuation") and not text.strip(CLOSING):
        text = group[-2]["word"] + text
    return text.rstrip(CLOSING)[-1:] in SPACELESS_ENDS and bool(following["word"].strip(CLOSING))


def break_lines(words: Sequence[Word], rules: SubtitleRules = DEFAULT_RULES) -> list[str]:
    """Break words into the fewest lines, of about the same length; a word longer than a line has its own line."""
    lines = _fill(words, rules)
    if len(lines) < 2:
        return lines
    longest = max(map(len, lines))
    for width in range(1, min(longest, rules.max_line_characters)):
        narrower = _fill(words, rules, width)
        if len(narrower) == len(lines) and max(map(len, narrower)) <= longest:
            return narrower
    return lines


def _fill(words: Sequence[Word], rules: SubtitleRules, width: int | None = None) -> list[str]:
    """Lines with as many words each as fit."""
    width = rules.max_line_characters if width is None else width
    lines: list[str] = []
    for word in words:
        text = word["word"]
        between = "" if word.get("is_continuation") else " "
        if lines and len(lines[-1]) + len(between) + len(text) <= width:
            lines[-1] += between + text
        else:
            lines.append(text)
    return lines


def subtitle_words(record: TranscriptRecord, rules: SubtitleRules = DEFAULT_RULES) -> list[Word]:
    """Words of a transcript, in pieces where they are longer than a line, with times of the file."""
    if "word" not in (record.transcript.timestamps or {}):
        return spread_words(record)
    return split_long_words(timed_words(record), record.timed_items("char"), rules)


def split_long_words(
    words: Sequence[Word], characters: Sequence[dict[str, Any]], rules: SubtitleRules = DEFAULT_RULES
) -> list[Word]:
    """
    Split words that are longer than a line into the pieces that the model wrote, for text without spaces.

    Args:
        words: As in `group_words`.
        characters: `Transcript.timestamps["char"]`: the text of each token with its times.
        rules: Rules for the layout.

    Returns:
        The words. All pieces of a word but the first have `is_continuation`. Where the tokens do not spell the words,
        the words are returned as they were.
    """
    result: list[Word] = []
    position = 0
    for word in words:
        text, pieces, spelled = word["word"], [], ""
        while position < len(characters) and len(spelled) < len(text):
            item = characters[position]
            piece = item["char"].strip()
            spelled += piece
            if piece:
                pieces.append({"word": piece, "start": item["start"], "end": item["end"], **speaker_of(word)})
            position += 1
        if spelled != text:
            return list(words)
        if len(text) <= rules.max_line_characters:
            result.append(word)
        else:
            result += [pieces[0], *({**piece, "is_continuation": True} for piece in pieces[1:])]
    return result


def lay_out_subtitles(words: Sequence[Word], rules: SubtitleRules = DEFAULT_RULES) -> list[Subtitle]:
    """
    Lay words out as subtitles, one after the other; those of speakers who talk at the same time overlap.

    Args:
        words: As in `group_words`, in the order of their times; or of several speakers, those of each in that order.
        rules: Rules for the layout.
    """
    if any(later["start"] < word["start"] for word, later in pairwise(words)):
        of_speakers: dict[Any, list[Word]] = {}
        for word in words:
            of_speakers.setdefault(word.get("speaker"), []).append(word)
        if len(of_speakers) > 1:
            laid_out = [one for said in of_speakers.values() for one in lay_out_subtitles(said, rules)]
            return sorted(laid_out, key=lambda one: one.start)
    groups = list(group_words(words, rules))
    subtitles: list[Subtitle] = []
    for index, group in enumerate(groups):
        lines = break_lines(group, rules)
        start = max(float(group[0]["start"]), subtitles[-1].end if subtitles else 0.0)
        spoken_until = max(float(word["end"]) for word in group)
        # A subtitle stays until it can be read, but not longer than allowed, and at least as long as its words.
        wanted_seconds = max(sum(map(len, lines)) / rules.max_characters_per_second, rules.min_seconds)
        end = max(spoken_until, start + min(wanted_seconds, rules.max_seconds))
        if index + 1 < len(groups):
            following = float(groups[index + 1][0]["start"])
            end = min(
                end, following - rules.min_gap_seconds if following - rules.min_gap_seconds > start else following
            )
        speaker = group[0].get("speaker")
        subtitles.append(Subtitle(start, max(end, start + MIN_SHOWN_SECONDS), lines, speaker))
    return subtitles


def format_srt(words: Sequence[Word], rules: SubtitleRules = DEFAULT_RULES) -> str:
    """Write a SubRip file of words as in `group_words`. SubRip cannot escape marks that are only text."""
    return _format_file("srt", words, rules, lambda line: line, lambda speaker: f"[{speaker}] ")


def format_vtt(words: Sequence[Word], rules: SubtitleRules = DEFAULT_RULES) -> str:
    """Write a WebVTT file of words as in `group_words`; their marks are escaped, since the format has markup."""
    # A voice span lasts to the end of the subtitle, and need not be closed where it is the whole of it.
    return _format_file(
        "vtt", words, rules, lambda line: html.escape(line, quote=False), lambda speaker: f"<v {speaker}>"
    )


def _format_file(
    pysubs2_format: str,
    words: Sequence[Word],
    rules: SubtitleRules,
    write_line: Callable[[str], str],
    write_speaker: Callable[[str], str],
) -> str:
    subtitles = pysubs2.SSAFile()
    for start, end, lines, speaker in lay_out_subtitles(words, rules):
        event = pysubs2.SSAEvent(start=round(1000 * start), end=round(1000 * end))
        said_by = "" if speaker is None else write_speaker(speaker)
        event.plaintext = said_by + "\n".join(map(write_line, lines))
        subtitles.events.append(event)
    # Braces in a word are not a style of the Advanced SubStation format, which the library uses inside.
    return subtitles.to_string(pysubs2_format, keep_ssa_tags=True)


def format_tsv(words: Sequence[Word], rules: SubtitleRules = DEFAULT_RULES) -> str:
    """Write a table: start and end of each subtitle in milliseconds, and its text in one line."""
    rows = ["start\tend\ttext"]
    for start, end, lines, _ in lay_out_subtitles(words, rules):
        text = re.sub(r"\s+", " ", " ".join(lines))
        rows.append(f"{round(1000 * start)}\t{round(1000 * end)}\t{text}")
    return "".join(row + "\n" for row in rows)
