"""Subtitles: which words stand together and how long, and files that parsers which are not ours read back."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pysubs2
import pytest

from transformers_fastconformer.writers.subtitles import (
    SubtitleRules,
    break_lines,
    format_srt,
    format_vtt,
    group_words,
    lay_out_subtitles,
    split_long_words,
)

RULES = SubtitleRules()


def make_words(text: str, seconds_a_word: float = 0.4, gap_seconds: float = 0.1) -> list[dict[str, Any]]:
    step = seconds_a_word + gap_seconds
    return [
        {"word": word, "start": step * index, "end": step * index + seconds_a_word}
        for index, word in enumerate(text.split())
    ]


def texts(words: list[dict[str, Any]], rules: SubtitleRules = RULES) -> list[str]:
    return [" ".join(word["word"] for word in group) for group in group_words(words, rules)]


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        SubtitleRules(max_line_characters=20, max_lines=1, max_seconds=3.0),
        SubtitleRules(max_line_characters=25, max_lines=3),
    ],
    ids=["default", "small", "three lines"],
)
def test_no_word_is_lost_and_every_subtitle_fits(rules: SubtitleRules) -> None:
    words = make_words("one seven twenty responsibilities of it all " * 40)
    groups = list(group_words(words, rules))
    assert [word for group in groups for word in group] == words
    assert len(groups) > 20
    shown = lay_out_subtitles(words, rules)
    assert len(shown) == len(groups)
    for subtitle, group in zip(shown, groups, strict=True):
        assert " ".join(subtitle.lines) == " ".join(word["word"] for word in group)
        assert len(subtitle.lines) <= rules.max_lines
        assert all(len(line) <= rules.max_line_characters for line in subtitle.lines)
        assert group[-1]["end"] - group[0]["start"] <= rules.max_seconds
        assert subtitle.end - subtitle.start <= rules.max_seconds
    assert any(len(subtitle.lines) == rules.max_lines for subtitle in shown)


def test_sentences_and_pauses_end_a_subtitle() -> None:
    assert texts(make_words("Who is it? It is me. Go on")) == ["Who is it?", "It is me.", "Go on"]
    words = make_words("one two three four")
    for word in words[2:]:
        word["start"] += 1.0
        word["end"] += 1.0
    assert texts(words) == ["one two", "three four"]
    assert texts(words, SubtitleRules(pause_seconds=1.5)) == ["one two three four"]


def test_a_long_time_ends_a_subtitle() -> None:
    assert texts(make_words("a b c d e", seconds_a_word=3.0)) == ["a b", "c d", "e"]
    assert texts(make_words("a b c d e", seconds_a_word=3.0), SubtitleRules(max_seconds=10)) == ["a b c", "d e"]


def test_a_word_longer_than_a_line_has_one_of_its_own() -> None:
    word = "x" * (RULES.max_line_characters + 5)
    assert break_lines(make_words(f"a {word} b")) == ["a", word, "b"]


def test_lines_are_of_about_the_same_length() -> None:
    words = make_words("this is a text that is a little longer than one line is")
    assert break_lines(words) == ["this is a text that is a", "little longer than one line is"]
    # The fewest lines count first.
    assert break_lines(words, SubtitleRules(max_line_characters=60)) == [" ".join(word["word"] for word in words)]


def test_a_subtitle_stays_to_be_read_as_long_as_there_is_time() -> None:
    words = make_words("incomprehensibilities and responsibilities. Next", seconds_a_word=0.3, gap_seconds=0.0)
    words[-1].update(start=1.3, end=1.6)
    first, last = lay_out_subtitles(words)
    assert first.end == pytest.approx(1.3 - RULES.min_gap_seconds)  # 42 characters want 2.1 s
    words[-1].update(start=9.0, end=9.1)
    first, last = lay_out_subtitles(words)
    assert first.end == pytest.approx(sum(map(len, first.lines)) / 20)
    assert last.end - last.start == pytest.approx(RULES.min_seconds)
    (first, _) = lay_out_subtitles(words, SubtitleRules(max_characters_per_second=5, max_seconds=4.0))
    assert first.end == pytest.approx(4.0)


def test_between_two_subtitles_is_a_gap() -> None:
    words = make_words("One. Two. Three.", seconds_a_word=1.0, gap_seconds=0.0)
    shown = lay_out_subtitles(words)
    assert [subtitle.start for subtitle in shown] == [0.0, 1.0, 2.0]
    assert [subtitle.end for subtitle in shown] == pytest.approx([0.92, 1.92, 3.0])
    assert [subtitle.end for subtitle in lay_out_subtitles(words, SubtitleRules(min_gap_seconds=0))] == [1, 2, 3]


def test_words_of_no_length_at_one_time_are_all_seen() -> None:
    words = [{"word": word, "start": 2.0, "end": 2.0} for word in ("One.", "Two.", "Three.")]
    shown = lay_out_subtitles(words)
    assert [subtitle.lines for subtitle in shown] == [["One."], ["Two."], ["Three."]]
    for subtitle, following in pairwise(shown):
        assert subtitle.start < subtitle.end <= following.start


@pytest.mark.parametrize(("subtitle_format", "write"), [("srt", format_srt), ("vtt", format_vtt)])
def test_a_parser_reads_the_file(subtitle_format: str, write: Callable[..., str]) -> None:
    words = make_words("This is not more. And so on until the second line of the second one is reached")
    parsed = pysubs2.SSAFile.from_string(write(words))
    assert parsed.format == subtitle_format
    groups = list(group_words(words))
    assert len(parsed.events) == len(groups) > 1
    for event, group, following in zip(parsed.events, groups, [*groups[1:], None], strict=True):
        assert event.start == round(1000 * group[0]["start"])
        assert event.end > event.start
        assert following is None or event.end <= round(1000 * following[0]["start"])
    assert "second line" in " ".join(event.plaintext.replace("\n", " ") for event in parsed.events)


def test_parsers_that_the_files_were_not_written_with_read_them() -> None:
    """`srt` refuses what is not as it should be, `webvtt` knows the format that browsers read."""
    srt, webvtt = pytest.importorskip("srt"), pytest.importorskip("webvtt")
    words = make_words("A <b>. Is this & that {x}? " + "Nothing was lost nor said another time. " * 30)
    shown = lay_out_subtitles(words)
    assert len(shown) == 32
    subrip = list(srt.parse(format_srt(words), ignore_errors=False))
    assert [item.index for item in subrip] == list(range(1, len(shown) + 1))
    assert [item.content.split("\n") for item in subrip] == [subtitle.lines for subtitle in shown]
    captions = webvtt.from_buffer(io.StringIO(format_vtt(words)))
    assert len(captions) == len(shown)
    for subtitle, item, caption in zip(shown, subrip, captions, strict=True):
        assert item.start.total_seconds() == pytest.approx(subtitle.start, abs=0.001)
        assert item.end.total_seconds() == pytest.approx(subtitle.end, abs=0.001)
        assert caption.start_in_seconds == int(subtitle.start)
        assert caption.start == str(item.start + type(item.start)(microseconds=1))[:-3].rjust(12, "0")
    assert html.unescape(captions[0].text) == "A <b>."


def test_words_without_length_are_seen() -> None:
    words = [{"word": "now", "start": 2.0, "end": 2.0}]
    (event,) = pysubs2.SSAFile.from_string(format_srt(words)).events
    assert event.end - event.start == round(1000 * RULES.min_seconds)


def test_what_is_written_without_spaces_is_split_where_the_tokens_are() -> None:
    pieces = [f"{number:02d}字" for number in range(30)]
    characters = [{"char": "", "start": 0.0, "end": 0.0}] + [
        {"char": piece, "start": 0.2 * number, "end": 0.2 * number + 0.2} for number, piece in enumerate(pieces)
    ]
    whole = "".join(pieces)
    words = [{"word": whole, "start": 0.0, "end": 6.0}, {"word": "end", "start": 6.0, "end": 6.5}]
    characters.append({"char": "end", "start": 6.0, "end": 6.5})
    split = split_long_words(words, characters)
    assert len(split) == 31
    shown = lay_out_subtitles(split)
    assert all(len(line) <= 42 for subtitle in shown for line in subtitle.lines)
    assert "".join("".join(subtitle.lines) for subtitle in shown).replace(" ", "") == whole + "end"
    assert shown[-1].lines[-1].endswith(" end")
    # Short words and tokens that spell something else leave it alone.
    assert split_long_words(words[1:], characters[-1:]) == words[1:]
    assert split_long_words(words, characters[2:]) == words


def test_nothing_said() -> None:
    assert "-->" not in format_srt([])
    assert "-->" not in format_vtt([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_lines": 0}, "max_lines=0 is not supported; expected an integer of 1 or more"),
        ({"max_line_characters": True}, "max_line_characters=True"),
        ({"max_seconds": 0}, "max_seconds=0 is not supported; expected more than 0"),
        ({"max_characters_per_second": float("nan")}, "max_characters_per_second=nan"),
        ({"min_gap_seconds": -1}, "min_gap_seconds=-1 is not supported; expected 0 or more"),
        ({"min_seconds": 8.0}, "min_seconds=8.0 is not supported; expected at most max_seconds=7.0"),
    ],
)
def test_rules_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubtitleRules(**options)


def test_marks_in_words_are_words() -> None:
    words = make_words("a <b> {bold} & c")
    assert "a <b> {bold} & c" in format_srt(words)
    assert "a &lt;b&gt; {bold} &amp; c" in format_vtt(words)


def test_abbreviations_end_no_subtitle_and_quotations_do() -> None:
    assert texts(make_words('Mr. Smith of the U.S. Army said "yes." Then he left.')) == [
        'Mr. Smith of the U.S. Army said "yes."',
        "Then he left.",
    ]


def test_text_without_spaces_ends_at_its_marks() -> None:
    pieces = ["\u300c", "\u306f\u3044", "\u3002", "\u300d", "\u3068", "3", ".", "5", "\u3002", "\u307e"]
    words = make_words(" ".join(pieces))
    for word in words[1:]:
        word["is_continuation"] = True
    joined = ["".join(word["word"] for word in group) for group in group_words(words)]
    assert joined == ["\u300c\u306f\u3044\u3002\u300d", "\u30683.5\u3002", "\u307e"]


def test_speakers_who_talk_at_the_same_time_have_subtitles_that_overlap() -> None:
    first = [("how", 0.0, 0.4), ("are", 0.5, 0.9), ("you", 1.0, 2.0)]
    second = [("I", 0.8, 1.0), ("see", 1.1, 1.5)]
    words = [
        {"word": word, "start": start, "end": end, "speaker": speaker}
        for speaker, said in (("a", first), ("b", second))
        for word, start, end in said
    ]
    found = lay_out_subtitles(words)
    assert [(one.speaker, one.lines, one.start) for one in found] == [
        ("a", ["how are you"], 0.0),
        ("b", ["I see"], 0.8),
    ]
    assert found[0].end >= 2.0
    assert found[1].end >= 1.5
