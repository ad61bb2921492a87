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
# Without times: for each word that the overlap has more or less than expected. Of text that is said
# again and again, digits for one, many alignments are good; as a word more is worth no more than that, the likeliest
# length decides.
UNEXPECTED = -2.0
# Encoder frames by which the times of one word in two windows may differ.
TIME_TOLERANCE_FRAMES = 8
# The same for their places, which are rough.
PLACE_TOLERANCE_FRAMES = 25
# With neither: words that the overlap may have, as a multiple of its share of the window, and some more.
MAX_DENSITY = 2.0
EXTRA_WORDS = 4


class HeardWord(NamedTuple):
    """
    A word of a window.

    Args:
        text: The word.
        start_offset, end_offset: Encoder frames of the recording; None: not known.
        confidence: Confidence in it, where there is one.
        place: Encoder frame of the recording around which it is said, for words without times; None: not known.
    """

    text: str
    start_offset: int | None = None
    end_offset: int | None = None
    confidence: float | None = None
    place: int | None = None


class HeardWindow(NamedTuple):
    """
    Words of a window.

    Args:
        words: The words, in order.
        start, stop: Encoder frames of the recording that the words are of.
    """

    words: Sequence[HeardWord]
    start: int
    stop: int


def join_windows(before: HeardWindow, after: HeardWindow) -> list[HeardWord]:
    """
    Join the words of two windows, of which the second may begin before the end of the first.

    Without an overlap all words are kept. Where the overlap has no word that both heard, those of the first window up
    to its middle are kept and those of the second after it, by their times, by their places, or as if all words of a
    window lasted equally long.
    """
    if after.start >= before.stop or not before.words or not after.words:
        return [*before.words, *after.words]
    tolerance = _find_tolerance(before.words, after.words)
    first_tail, num_head = _find_overlap(before, after, tolerance)
    tail, head = before.words[first_tail:], after.words[:num_head]
    expected = len(after.words) * (before.stop - after.start) / (after.stop - after.start)
    if tolerance is not None:
        expected = float(sum(_middle(word) < before.stop for word in after.words))
    pairs = _align(tail, head, expected, tolerance)
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
    earlier, later = (_list_middles(window, tolerance is not None) for window in (before, after))
    return [
        *(word for word, frame in zip(before.words, earlier, strict=True) if frame < middle),
        *(word for word, frame in zip(after.words, later, strict=True) if frame >= middle),
    ]


def _find_tolerance(before: Sequence[HeardWord], after: Sequence[HeardWord]) -> int | None:
    """Frames by which one word may be said earlier or later in two windows; None: both do not know when it is."""
    words = [*before, *after]
    if all(word.start_offset is not None and word.end_offset is not None for word in words):
        return TIME_TOLERANCE_FRAMES
    return PLACE_TOLERANCE_FRAMES if all(word.place is not None for word in words) else None


def _span(word: HeardWord) -> tuple[int, int]:
    """First and last frame of a word, or twice its place."""
    if word.start_offset is not None and word.end_offset is not None:
        return word.start_offset, word.end_offset
    assert word.place is not None
    return word.place, word.place


def _middle(word: HeardWord) -> float:
    return sum(_span(word)) / 2


def _list_middles(window: HeardWindow, are_known: bool) -> list[float]:
    """Frame around which each word of a window is said, or would be if all words lasted equally long."""
    if are_known:
        return [_middle(word) for word in window.words]
    word_frames = (window.stop - window.start) / len(window.words)
    return [window.start + (number + 0.5) * word_frames for number in range(len(window.words))]


def _find_overlap(before: HeardWindow, after: HeardWindow, tolerance: int | None) -> tuple[int, int]:
    """First word of the first window, and number of the first words of the second, that the overlap may have."""
    if tolerance is not None:
        earliest, latest = after.start - tolerance, before.stop + tolerance
        ends, starts = [_span(word)[1] for word in before.words], [_span(word)[0] for word in after.words]
        first = next((place for place, end in enumerate(ends) if end > earliest), len(ends))
        num_late = next((place for place, start in enumerate(reversed(starts)) if start < latest), len(starts))
        return first, len(starts) - num_late
    counts = []
    for window in (before, after):
        share = (before.stop - after.start) / (window.stop - window.start)
        counts.append(math.ceil(MAX_DENSITY * share * len(window.words)) + EXTRA_WORDS)
    return max(len(before.words) - counts[0], 0), min(counts[1], len(after.words))


def bare_word(text: str) -> str:
    """A word without case and punctuation, which borders of windows change."""
    return "".join(c for c in text.casefold() if unicodedata.category(c)[0] not in "PS")


def _align(
    tail: Sequence[HeardWord], head: Sequence[HeardWord], expected_words: float, tolerance: int | None
) -> list[tuple[int, int]]:
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
            distance = _distance(rows[row - 1], columns[column - 1], tail[row - 1], head[column - 1], tolerance)
            gain = MISMATCH if distance is None else MATCH - distance
            scores[row][column], steps[row][column] = max(
                (scores[row - 1][column - 1] + gain, "differ" if distance is None else "match"),
                (scores[row - 1][column] + GAP, "tail"),
                (scores[row][column - 1] + GAP, "head"),
            )
    is_timed = tolerance == TIME_TOLERANCE_FRAMES
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


def _distance(row: str, column: str, before: HeardWord, after: HeardWord, tolerance: int | None) -> float | None:
    """Part of the tolerance by which two words that are the same are apart; None: they are not the same."""
    if row != column or not row:
        return None
    if tolerance is None:
        return 0.0
    distance = abs(_middle(before) - _middle(after)) / tolerance
    return distance if distance <= 1 else None
