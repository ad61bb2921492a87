"""Words and times of time tokens: NeMo's where every word has two, and no text lost where it has not."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from transformers_fastconformer.decoding.time_tokens import timed_words
from transformers_fastconformer.decoding.timestamps import Span


def as_text(pieces: list[int | str]) -> str:
    return "".join(piece if isinstance(piece, str) else f"<|{piece}|>" for piece in pieces)


def test_words_stand_between_their_times() -> None:
    pieces = [3, " Hello,", 8, 9, " world.", 14]
    assert timed_words(pieces) == [Span("Hello,", 3, 8), Span("world.", 9, 14)]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([3, " Hello", 8, ",", 9, " world", 14, "."], [("Hello,", 3, 8), ("world.", 9, 14)]),
        ([3, " va", 8, " ?"], [("va ?", 3, 8)]),
        ([3, " one", 8, " two", 9, " three", 12], [("one", 3, 8), ("two", 8, 9), ("three", 9, 12)]),
        ([" one", 4, 5, " two", 8], [("one", 0, 4), ("two", 5, 8)]),
        ([3, " one", 5, 6, " two"], [("one", 3, 5), ("two", 6, 20)]),
        ([3, " one two", 8], [("one two", 3, 8)]),
        ([8, " one", 3, 2, " two", 1], [("one", 8, 8), ("two", 8, 8)]),
        ([3, 8], []),
        ([" no times"], [("no times", 0, 20)]),
        ([3, " ...", 5], [("...", 3, 5)]),
    ],
)
def test_no_text_is_lost(pieces: list[int | str], expected: list[tuple[str, int, int]]) -> None:
    assert timed_words(pieces, 20) == [Span(*word) for word in expected]


@pytest.mark.nemo
def test_words_with_two_times_each_are_nemos() -> None:
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis
    from nemo.collections.asr.parts.utils.timestamp_utils import process_aed_timestamp_outputs

    rng = random.Random(0)
    for _ in range(50):
        pieces: list[int | str] = []
        frame = 0
        for _ in range(rng.randrange(1, 12)):
            start = frame + rng.randrange(4)
            frame = start + rng.randrange(6)
            pieces += [start, " " + rng.choice(["one", "two,", "Three.", "four?"]), frame]
        theirs: Any = process_aed_timestamp_outputs([Hypothesis(0.0, [], text=as_text(pieces), timestamp=[])], 8)[0]
        ours = timed_words(pieces)
        assert theirs.text == " ".join(word.text for word in ours)
        assert [tuple(word) for word in ours] == [
            (word["word"], word["start_offset"], word["end_offset"]) for word in theirs.timestamp["word"]
        ]
        assert not re.search(r"\d", theirs.text)
