"""Byte-pair encoding (Sennrich et al., 2016) taken up where a vocabulary ends: further merges of pieces of words."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise

Pair = tuple[str, str]
MIN_COUNT = 2  # a pair that occurs once is no pattern


def continue_merges(
    words: Mapping[tuple[str, ...], int], known: Iterable[str], refused: Collection[str] = ()
) -> Iterator[str]:
    """
    New pieces, each of two that there are already, the most frequent pair first.

    After each new piece the words are written as an encoder writes them: neighbours that make a known piece are one
    piece too.

    Args:
        words: Words as lists of pieces, with their counts.
        known: Pieces of the vocabulary.
        refused: Texts that never become a piece.

    Returns:
        An iterator, which ends when no pair occurs twice.
    """
    state = _Words(words, set(known), refused)
    while (pair := state.pop_best_pair()) is not None:
        yield "".join(pair)
        state.add_piece(pair)


class _Words:
    """Words as pieces, the counts of neighbouring pairs, and the words that each pair is in."""

    def __init__(self, words: Mapping[tuple[str, ...], int], known: set[str], refused: Collection[str]) -> None:
        self._known = known
        self._refused = refused
        self._words = [list(word) for word in words]
        self._counts = list(words.values())
        self._pairs: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, set[int]] = defaultdict(set)
        for number in range(len(self._words)):
            self._merge_known(number)
            self._note(number, 1)
        # The most frequent first, in a tie by text. Entries whose count has changed are passed over.
        self._queue = [(-count, pair) for pair, count in self._pairs.items()]
        heapq.heapify(self._queue)

    def pop_best_pair(self) -> Pair | None:
        """The most frequent pair that may become a piece; None where no pair occurs twice."""
        while self._queue:
            count, pair = heapq.heappop(self._queue)
            if -count < MIN_COUNT:
                return None
            if self._pairs[pair] == -count and "".join(pair) not in self._refused:
                return pair
        return None

    def add_piece(self, pair: Pair) -> None:
        """Make a pair a piece in all words."""
        self._known.add("".join(pair))
        changed: set[Pair] = set()
        for number in sorted(self._places[pair]):
            changed |= self._note(number, -1)
            self._merge_known(number)
            changed |= self._note(number, 1)
        for other in changed:
            heapq.heappush(self._queue, (-self._pairs[other], other))

    def _merge_known(self, number: int) -> None:
        """Join neighbours, from the left, as long as two of them make a known piece."""
        pieces = self._words[number]
        position = 0
        while position + 1 < len(pieces):
            joined = pieces[position] + pieces[position + 1]
            if joined in self._known:
                pieces[position : position + 2] = [joined]
                position = max(position - 1, 0)
            else:
                position += 1

    def _note(self, number: int, sign: int) -> set[Pair]:
        """Add the pairs of a word to the counts, or take them away."""
        pairs = list(pairwise(self._words[number]))
        for pair in pairs:
            self._pairs[pair] += sign * self._counts[number]
            if sign > 0:
                self._places[pair].add(number)
            else:
                self._places[pair].discard(number)
        return set(pairs)
