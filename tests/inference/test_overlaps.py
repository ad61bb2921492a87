"""Joins of windows that overlap: no word lost, none doubled, whatever the borders cut."""

from __future__ import annotations

import random

import pytest

from transformers_fastconformer.inference.overlaps import HeardWindow, HeardWord, bare_word, join_windows


def window(text: str, start: int, stop: int, times: list[tuple[int, int]] | None = None) -> HeardWindow:
    words = text.split()
    if times is None:
        return HeardWindow([HeardWord(word) for word in words], start, stop)
    return HeardWindow([HeardWord(word, *when) for word, when in zip(words, times, strict=True)], start, stop)


def joined(before: str, after: str, overlap: int = 40, frames: int = 100) -> str:
    first, second = window(before, 0, frames), window(after, frames - overlap, 2 * frames - overlap)
    return " ".join(word.text for word in join_windows(first, second))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a b c d e f", "d e f g h i", "a b c d e f g h i"),
        ("a b c d e fox.", "D e fox jumped over it", "a b c d e fox jumped over it"),
        ("a b c d e f fo", "dd e f fox g h i", "a b c d e f fox g h i"),
        ("a b c d e f", "g h i j k l", "a b c d e f g h i j k l"),
        ("", "g h", "g h"),
        ("a b", "", "a b"),
        ("a b c d, e f", "d e f. G h i", "a b c d, e f. G h i"),
        ("one two no no no", "no no no three four five six", "one two no no no three four five six"),
    ],
)
def test_words_that_both_heard_are_written_once(before: str, after: str, expected: str) -> None:
    assert joined(before, after) == expected


def test_windows_that_meet_follow_each_other() -> None:
    first, second = window("a b", 0, 50), window("b c", 50, 90)
    assert [word.text for word in join_windows(first, second)] == ["a", "b", "b", "c"]


def test_times_tell_repeated_words_apart() -> None:
    times = [(frame, frame + 5) for frame in range(0, 100, 10)]
    text = ["no"] * 10
    first = HeardWindow([HeardWord(word, *when) for word, when in zip(text, times, strict=True)], 0, 100)
    later = [(start + 60, stop + 61) for start, stop in times]
    second = HeardWindow([HeardWord(word, *when) for word, when in zip(text, later, strict=True)], 60, 160)
    words = join_windows(first, second)
    assert [word.start_offset for word in words] == list(range(0, 160, 10))


def test_times_cut_where_no_word_is_the_same() -> None:
    first = window("a b c d", 0, 40, [(0, 8), (10, 18), (20, 28), (30, 38)])
    second = window("x y z", 20, 60, [(20, 28), (31, 39), (42, 50)])
    assert [word.text for word in join_windows(first, second)] == ["a", "b", "c", "y", "z"]


def test_random_texts_lose_and_double_nothing() -> None:
    rng = random.Random(0)
    for case in range(300):
        vocabulary = [f"w{number}" for number in range(60 if case % 2 else 10)]
        text = [rng.choice(vocabulary) for _ in range(60)]
        # Four frames a word; borders may cut a word, which is then heard wrong or not at all.
        stop, start = 160, rng.randrange(100, 140)
        before = text[: stop // 4] + rng.choice([[], ["cut"]])
        after = rng.choice([[], ["cut"]]) + text[-(-start // 4) :]
        first, second = window(" ".join(before), 0, stop), window(" ".join(after), start, 240)
        assert [word.text for word in join_windows(first, second)] == text


def test_case_and_punctuation_are_not_the_word() -> None:
    assert bare_word("Fox's,") == bare_word("foxs") == "foxs"
    assert bare_word("...") == ""
