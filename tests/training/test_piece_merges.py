"""Further merges of byte-pair encoding: which pairs, in which order, and what an encoder makes of them."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import pytest

from transformers_fastconformer.training.piece_merges import continue_merges


def by_loop(words: dict[tuple[str, ...], int], known: set[str], num_merges: int) -> list[str]:
    """The same, counted anew for each merge."""
    rows = [(list(word), count) for word, count in words.items()]
    new: list[str] = []
    for _ in range(num_merges):
        for pieces, _ in rows:
            position = 0
            while position + 1 < len(pieces):
                if pieces[position] + pieces[position + 1] in known:
                    pieces[position : position + 2] = [pieces[position] + pieces[position + 1]]
                    position = max(position - 1, 0)
                else:
                    position += 1
        pairs: Counter[tuple[str, str]] = Counter()
        for pieces, count in rows:
            for pair in pairwise(pieces):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        new.append("".join(best))
        known.add(new[-1])
    return new


def test_the_most_frequent_pair_comes_first_and_ties_go_by_text() -> None:
    words = {("b", "c"): 2, ("a", "b"): 2, ("x", "y", "z"): 5}
    assert list(continue_merges(words, "abcxyz")) == ["xy", "xyz", "ab", "bc"]


def test_pairs_that_occur_once_are_left() -> None:
    assert list(continue_merges({("a", "b"): 1, ("c", "d"): 2}, "abcd")) == ["cd"]


def test_neighbours_that_make_a_known_piece_are_one() -> None:
    # "ab" becomes a piece, and with "c" after it the known "abc": nothing is left to merge.
    assert list(continue_merges({("a", "b", "c"): 3}, ["a", "b", "c", "abc"])) == ["ab"]


def test_refused_pieces_are_never_made() -> None:
    assert list(continue_merges({("a", "b", "c"): 3}, "abc", refused={"ab"})) == ["bc", "abc"]
    assert list(continue_merges({("a", "a", "a"): 3}, "a", refused={"aa"})) == []


def test_repeats_are_counted_as_pairs_of_neighbours() -> None:
    assert next(iter(continue_merges({("a", "a", "a", "a"): 1}, "a")), None) == "aa"


@pytest.mark.parametrize(
    "text", ["abracadabra abracadabra cadabra", "mississippi missouri miss sip sip", "aaaa aaa aa"]
)
def test_merges_are_those_of_a_loop(text: str) -> None:
    words = Counter(tuple(word) for word in text.split())
    found = list(islice(continue_merges(words, set(text)), 20))
    assert found == by_loop(dict(words), set(text), 20)
    assert found
