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


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a b c d e f", "g h i j k l", "a b c d e h i j k l"),  # the overlap is f and g, half of e and half of h
        ("a b", "g h i j k l m n o p q r s t u", "a b j k l m n o p q r s t u"),
        ("a", "g", "a g"),
    ],
)
def test_without_times_the_middle_of_the_overlap_cuts(before: str, after: str, expected: str) -> None:
    assert joined(before, after) == expected


def place(text: str, start: int, stop: int, places: list[int]) -> HeardWindow:
    words = [HeardWord(word, place=frame) for word, frame in zip(text.split(), places, strict=True)]
    return HeardWindow(words, start, stop)


def test_places_cut_where_no_word_is_the_same() -> None:
    # By their share of the windows "c" and "d" would be on other sides of the middle.
    first = place("a b c d", 0, 100, [2, 4, 6, 95])
    second = place("x y z", 60, 160, [62, 82, 84])
    assert [word.text for word in join_windows(first, second)] == ["a", "b", "c", "y", "z"]


def test_places_tell_words_that_are_far_apart() -> None:
    first = place("no so no so", 0, 200, [100, 110, 120, 130])
    second = place("no so at last", 100, 300, [180, 190, 250, 260])
    # The same words are said again, too far away to be the same.
    assert [word.text for word in join_windows(first, second)] == ["no", "so", "no", "so", "no", "so", "at", "last"]
    close = place("no so at last", 100, 300, [118, 133, 250, 260])
    assert [word.text for word in join_windows(first, close)] == ["no", "so", "no", "so", "at", "last"]
    # Places of one window only are not read.
    blind = window("no so at last", 100, 300)
    of_both = join_windows(window("no so no so", 0, 200), blind)
    assert [word.text for word in join_windows(first, blind)] == [word.text for word in of_both]


def test_random_texts_with_rough_places_lose_and_double_nothing() -> None:
    rng = random.Random(1)
    for case in range(300):
        vocabulary = [f"w{number}" for number in range(60 if case % 2 else 10)]
        text = [rng.choice(vocabulary) for _ in range(60)]
        places = [4 * number + 2 + rng.randrange(-6, 7) for number in range(60)]
        stop, start = 160, 4 * rng.randrange(25, 35)
        first = place(" ".join(text[: stop // 4]), 0, stop, sorted(places[: stop // 4]))
        second = place(" ".join(text[start // 4 :]), start, 240, sorted(places[start // 4 :]))
        assert [word.text for word in join_windows(first, second)] == text


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
