"""
Joins of the texts of two windows that overlap: which words of each are kept, so that none is lost and none doubled.

Words that both windows heard are found by an alignment of the end of one text with the beginning of the other, in
which the window that has more context around a word wins. A word that a border cuts is heard wrong by one of the two,
so that the last words before a border and the first after one may differ.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# Of an alignment: two words that are the same, two that are not, and a word that only one window has.
MATCH, MISMATCH, GAP = 2.0, -1.0, -0.6
# Without times: for each word that the overlap has more or less than its share of the window. Of text that is said
# again and again, digits for one, many alignments are good; as a word more is worth no more than that, the likeliest
# length decides.
UNEXPECTED = -2.0
# Encoder frames by which the times of one word in two windows may differ.
TIME_TOLERANCE_FRAMES = 8
# Without times: words that the overlap may have, as a multiple of its share of the window, and some more.
MAX_DENSITY = 2.0
EXTRA_WORDS = 4


class HeardWord(NamedTuple):
    """
    A word of a window.

    Args:
        text: The word.
        start_offset, end_offset: Encoder frames of the recording; None: not known.
        confidence: Confidence in it, where there is one.
    """

    text: str
    start_offset: int | None = None
    end_offset: int | None = None
    confidence: float | None = None


class HeardWindow(NamedTuple):
    """
    Words of a window.

    Args:
        words: The words, in order.
        start, stop: Encoder frames of the recording that the window has.
    """

    words: Sequence[HeardWord]
    start: int
    stop: int


def join_windows(before: HeardWindow, after: HeardWindow) -> list[HeardWord]:
    """
    Join the words of two windows, of which the second may begin before the end of the first.

    Without an overlap, and where the overlap has no word that both heard, all words are kept. With times those of the
    first window up to the middle of the overlap are kept then, and those of the second after it.
    """
    if after.start >= before.stop or not before.words or not after.words:
        return [*before.words, *after.words]
    first_tail = _count_outside(before, after.start)
    num_head = len(after.words) - _count_outside(_reverse(after), -before.stop)
    tail, head = before.words[first_tail:], after.words[:num_head]
    share = (before.stop - after.start) / (after.stop - after.start)
    pairs = _align(tail, head, share * len(after.words))
    if pairs:
        # The pair with the most words around it on both sides, within its own window.
        place = max(pairs, key=lambda pair: min(len(tail) - 1 - pair[0], pair[1]))
        kept, dropped = first_tail + place[0], place[1] + 1
        is_end = len(tail) - 1 - place[0] < place[1]  # a border follows closer than one stands before
        return [
            *before.words[:kept],
            after.words[place[1]] if is_end else before.words[kept],
            *after.words[dropped:],
        ]
    middle = (after.start + before.stop) / 2
    if _has_times(before.words) and _has_times(after.words):
        return [
            *(word for word in before.words if _middle(word) < middle),
            *(word for word in after.words if _middle(word) >= middle),
        ]
    return [*before.words, *after.words]


def _has_times(words: Sequence[HeardWord]) -> bool:
    return all(word.start_offset is not None and word.end_offset is not None for word in words)


def _middle(word: HeardWord) -> float:
    assert word.start_offset is not None
    assert word.end_offset is not None
    return (word.start_offset + word.end_offset) / 2


def _reverse(window: HeardWindow) -> HeardWindow:
    """The window as if time ran backwards."""
    words = [
        word._replace(
            start_offset=None if word.end_offset is None else -word.end_offset,
            end_offset=None if word.start_offset is None else -word.start_offset,
        )
        for word in reversed(window.words)
    ]
    return HeardWindow(words, -window.stop, -window.start)


def _count_outside(window: HeardWindow, overlap_start: int) -> int:
    """Number of the first words of a window that its overlap, which ends with it, surely does not have."""
    words = window.words
    if _has_times(words):
        earliest = overlap_start - TIME_TOLERANCE_FRAMES
        return next((place for place, word in enumerate(words) if (word.end_offset or 0) > earliest), len(words))
    share = (window.stop - overlap_start) / (window.stop - window.start)
    return max(len(words) - math.ceil(MAX_DENSITY * share * len(words)) - EXTRA_WORDS, 0)


def bare_word(text: str) -> str:
    """A word without case and punctuation, which borders of windows change."""
    return "".join(c for c in text.casefold() if unicodedata.category(c)[0] not in "PS")


def _align(tail: Sequence[HeardWord], head: Sequence[HeardWord], expected_words: float) -> list[tuple[int, int]]:
    """
    Places of the words that the end of one text and the beginning of another have in common.

    The alignment ends with the tail and begins with the head; words before it in the tail, and after it in the head,
    are free.
    """
    rows, columns = [bare_word(word.text) for word in tail], [bare_word(word.text) for word in head]
    scores = [[0.0] * (len(columns) + 1) for _ in range(len(rows) + 1)]
    steps = [[""] * (len(columns) + 1) for _ in range(len(rows) + 1)]
    for column in range(1, len(columns) + 1):
        scores[0][column], steps[0][column] = GAP * column, "head"
    for row in range(1, len(rows) + 1):
        for column in range(1, len(columns) + 1):
            is_same = _is_same(rows[row - 1], columns[column - 1], tail[row - 1], head[column - 1])
            scores[row][column], steps[row][column] = max(
                (scores[row - 1][column - 1] + (MATCH if is_same else MISMATCH), "match" if is_same else "differ"),
                (scores[row - 1][column] + GAP, "tail"),
                (scores[row][column - 1] + GAP, "head"),
            )
    is_timed = _has_times(tail) and _has_times(head)
    row = len(rows)
    candidates = [column for column in range(len(columns) + 1) if scores[row][column] > 0]
    if not candidates:
        return []
    weight = 0.0 if is_timed else UNEXPECTED
    column = max(candidates, key=lambda place: scores[row][place] + weight * abs(place - expected_words))
    pairs = []
    while column > 0:
        step = steps[row][column]
        if step == "match":
            pairs.append((row - 1, column - 1))
        row, column = row - (step != "head"), column - (step != "tail")
    # One short word may be the same by chance.
    is_sure = len(pairs) > 1 or is_timed or min(len(rows), len(columns)) <= EXTRA_WORDS
    return pairs[::-1] if is_sure else []


def _is_same(row: str, column: str, before: HeardWord, after: HeardWord) -> bool:
    if row != column or not row:
        return False
    if before.start_offset is None or after.start_offset is None:
        return True
    return abs(_middle(before) - _middle(after)) <= TIME_TOLERANCE_FRAMES
