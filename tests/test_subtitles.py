"""Subtitles: which words stand together, and files that a parser reads back."""

from __future__ import annotations

from typing import Any

import pysubs2
import pytest

from transformers_fastconformer.subtitles import (
    FEWEST_SECONDS,
    FORMATS,
    MOST_LINE_CHARACTERS,
    MOST_LINES,
    MOST_SECONDS,
    break_lines,
    format_subtitles,
    group_words,
)


def make_words(text: str, seconds_a_word: float = 0.4, gap_seconds: float = 0.1) -> list[dict[str, Any]]:
    step = seconds_a_word + gap_seconds
    return [
        {"word": word, "start": step * index, "end": step * index + seconds_a_word}
        for index, word in enumerate(text.split())
    ]


def texts(words: list[dict[str, Any]]) -> list[str]:
    return [" ".join(word["word"] for word in group) for group in group_words(words)]


def test_no_word_is_lost_and_every_subtitle_fits() -> None:
    words = make_words("one seven twenty incomprehensibilities of it all " * 40)
    groups = list(group_words(words))
    assert [word for group in groups for word in group] == words
    assert len(groups) > 20
    for group in groups:
        lines = break_lines(group)
        assert len(lines) <= MOST_LINES
        assert all(len(line) <= MOST_LINE_CHARACTERS for line in lines)
        assert group[-1]["end"] - group[0]["start"] <= MOST_SECONDS


def test_sentences_and_pauses_end_a_subtitle() -> None:
    assert texts(make_words("Who is it? It is me. Go on")) == ["Who is it?", "It is me.", "Go on"]
    words = make_words("one two three four")
    for word in words[2:]:
        word["start"] += 1.0
        word["end"] += 1.0
    assert texts(words) == ["one two", "three four"]


def test_a_long_time_ends_a_subtitle() -> None:
    assert texts(make_words("a b c d e", seconds_a_word=3.0)) == ["a b", "c d", "e"]


def test_a_word_longer_than_a_line_has_one_of_its_own() -> None:
    word = "x" * (MOST_LINE_CHARACTERS + 5)
    assert break_lines(make_words(f"a {word} b")) == ["a", word, "b"]


@pytest.mark.parametrize("subtitle_format", FORMATS)
def test_a_parser_reads_the_file(subtitle_format: str) -> None:
    words = make_words("This is not more. And so on until the second line of the second one is reached")
    parsed = pysubs2.SSAFile.from_string(format_subtitles(words, subtitle_format))
    assert parsed.format == subtitle_format
    groups = list(group_words(words))
    assert len(parsed.events) == len(groups) > 1
    for event, group, following in zip(parsed.events, groups, [*groups[1:], None], strict=True):
        assert event.start == round(1000 * group[0]["start"])
        assert event.end > event.start
        assert following is None or event.end <= round(1000 * following[0]["start"])
    assert "second line" in " ".join(event.plaintext.replace("\n", " ") for event in parsed.events)


def test_words_without_length_are_seen() -> None:
    words = [{"word": "now", "start": 2.0, "end": 2.0}]
    (event,) = pysubs2.SSAFile.from_string(format_subtitles(words, "srt")).events
    assert event.end - event.start == round(1000 * FEWEST_SECONDS)


def test_nothing_said_and_unknown_formats() -> None:
    assert "-->" not in format_subtitles([], "srt")
    with pytest.raises(ValueError, match=r"subtitle_format='ass' .*expected one of \('srt', 'vtt'\)"):
        format_subtitles([], "ass")


def test_marks_in_words_are_words() -> None:
    words = make_words("a <b> {bold} & c")
    assert "a <b> {bold} & c" in format_subtitles(words, "srt")
    assert "a &lt;b&gt; {bold} &amp; c" in format_subtitles(words, "vtt")
