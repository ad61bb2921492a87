"""Text of pieces as they come: any cutting of the tokens gives the text of all at once."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from transformers_fastconformer.tokenization_piece_text import PieceText, PieceTextState

EURO = "€".encode()
TOKENS = ["<unk>", "▁", "▁one", "s", ",", "<s>", *(f"<0x{byte:02X}>" for byte in EURO), "##ly"]


def make_rule(rule: str = "sentencepiece", **options: Any) -> PieceText:
    return PieceText(
        **{
            "rule": rule,
            "tokens": TOKENS,
            "decode_pieces": lambda pieces: " ".join(pieces).replace(" ##", ""),
            "byte_values": {6 + place: byte for place, byte in enumerate(EURO)},
            "control_ids": {5},
            "unknown_id": 0,
            "unknown_text": " ⁇ ",
            "add_dummy_prefix": True,
            "remove_extra_whitespaces": True,
            **options,
        }
    )


@pytest.mark.parametrize(
    ("token_ids", "text"),
    [
        ([2, 3, 4, 2], "ones, one"),
        ([1, 1, 2], "one"),
        ([5, 2], "one"),
        ([2, 0, 3], "one ⁇ s"),
        ([2, 6, 7, 8], "one€"),
        ([2, 6, 3], "one�s"),
        ([], ""),
    ],
)
def test_sentencepiece(token_ids: list[int], text: str) -> None:
    assert make_rule().extend(token_ids, PieceTextState())[0] == text


def test_options_keep_leading_spaces() -> None:
    """One dummy prefix goes; where extra spaces stay, the second mark is text."""
    assert make_rule(remove_extra_whitespaces=False).extend([1, 2], PieceTextState())[0] == " one"
    kept = make_rule(remove_extra_whitespaces=False, add_dummy_prefix=False)
    assert kept.extend([1, 2], PieceTextState())[0] == "  one"


def test_bytes_wait_for_their_character() -> None:
    text, state = make_rule().extend([2, 6, 7], PieceTextState())
    assert (text, state.unfinished_bytes) == ("one", EURO[:2])
    assert make_rule().extend([8], state)[0] == "€"


def test_other_rules() -> None:
    assert make_rule("wordpiece").extend([2, 9, 3], PieceTextState())[0] == "▁onely s"
    assert make_rule("aggregate").extend([2, 3], PieceTextState())[0] == " ones"
    assert make_rule("character").extend([3, 4], PieceTextState())[0] == "s,"


@pytest.mark.parametrize("rule", ["sentencepiece", "wordpiece", "aggregate", "character"])
def test_any_cutting_gives_the_same_text(rule: str) -> None:
    pieces, rng = make_rule(rule), random.Random(0)
    for _ in range(200):
        token_ids = rng.choices(range(len(TOKENS)), k=rng.randint(1, 9))
        whole, end = pieces.extend(token_ids, PieceTextState())
        cuts = sorted(rng.sample(range(len(token_ids) + 1), k=min(2, len(token_ids))))
        text, state = "", PieceTextState()
        for start, stop in itertools.pairwise([0, *cuts, len(token_ids)]):
            added, state = pieces.extend(token_ids[start:stop], state)
            text += added
        assert (text, state) == (whole, end), (token_ids, cuts)
