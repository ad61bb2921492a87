"""Rows of a new vocabulary by piece: what stays, and what spells a new piece."""

from __future__ import annotations

from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.nemo.tokenizers import (
    aggregate_tokenizer,
    character_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)
from transformers_fastconformer.training.piece_rows import BYTE, CONTROL, TEXT, UNKNOWN, Piece, match_pieces, pieces_of


def of_text(*texts: str, language: str | None = None) -> list[Piece]:
    return [Piece(TEXT, text, language) for text in texts]


def test_pieces_of_all_kinds_of_tokenizers() -> None:
    assert pieces_of(character_tokenizer([" ", "a"])) == of_text("▁", "a")
    wordpieces = pieces_of(wordpiece_tokenizer(["[UNK]", "the", "##s", "##"]))
    assert wordpieces == [Piece(UNKNOWN, ""), *of_text("▁the", "s", "")]
    with_bytes = sentencepiece_tokenizer(train_sentencepiece_model(byte_fallback=True, vocab_size=400, bos_id=1))
    pieces = pieces_of(with_bytes)
    assert pieces[0] == Piece(UNKNOWN, "")
    assert pieces[1] == Piece(CONTROL, "<s>")
    assert sum(piece.kind == BYTE for piece in pieces) == 256
    assert Piece(BYTE, "<0x41>") in pieces
    assert Piece(TEXT, "▁the") in pieces
    part = sentencepiece_tokenizer(train_sentencepiece_model())
    both = pieces_of(aggregate_tokenizer({"en": part, "de": part}))
    assert len(both) == 2 * part.blank_token_id
    assert [piece.language for piece in (both[0], both[-1])] == ["en", "de"]


def test_pieces_stay_whatever_their_ids() -> None:
    rows = match_pieces(of_text("a", "▁b", "c"), of_text("c", "b", "▁b"))
    assert rows.kept == [2, None, 1]
    assert rows.sources == [[2], [0, 1, 2], [1]]  # "b" inside of a word is not "b" at its beginning
    assert rows.num_spelled == 0


def test_unknown_pieces_of_other_names_are_the_same() -> None:
    assert match_pieces([Piece(UNKNOWN, "")], [Piece(UNKNOWN, "")]).kept == [0]
    assert match_pieces([Piece(CONTROL, "<s>")], of_text("<s>")).kept == [None]


def test_new_pieces_are_spelled_with_the_fewest_old_ones() -> None:
    old = of_text("▁", "a", "b", "c", "ab", "▁ab", "bc")
    rows = match_pieces(old, of_text("abc", "▁abc", "cab", "▁c", "xa", "x"))
    assert rows.sources[:5] == [[4, 3], [5, 3], [3, 4], [0, 3], [1]]  # "x" has no piece and is passed over
    assert rows.sources[5] == list(range(len(old)))  # nothing spells it
    assert rows.num_spelled == 5


def test_characters_without_a_piece_are_spelled_in_bytes() -> None:
    old = [*of_text("a"), Piece(BYTE, "<0xC3>"), Piece(BYTE, "<0xA9>")]
    assert match_pieces(old, of_text("aé")).sources == [[0, 1, 2]]
    assert match_pieces(old, of_text("aß")).sources == [[0]]  # one of its bytes has no piece here


def test_each_language_keeps_its_own_pieces() -> None:
    old = [*of_text("a", "b", language="en"), *of_text("a", language="de")]
    new = [*of_text("a", language="de"), *of_text("a", "b", language="fr"), *of_text("b", language="en")]
    rows = match_pieces(old, new)
    assert rows.kept == [2, None, None, 1]
    assert rows.sources[1:3] == [[0], [1]]  # the same piece of another language spells the new one


def test_languages_are_passed_over_where_one_side_has_none() -> None:
    joined = [*of_text("a", language="en"), *of_text("a", language="de")]
    assert match_pieces(of_text("a"), joined).kept == [0, None]  # an old piece stays once
    assert match_pieces(joined, of_text("a")).kept == [0]
