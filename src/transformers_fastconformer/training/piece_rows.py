"""Rows of a new vocabulary in terms of the old one's: by piece, and for new pieces by the pieces that spell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..tokenization_fastconformer import FastConformerTokenizer
from ..tokenization_piece_text import CONTINUATION_MARK, WORD_MARK

TEXT, BYTE, CONTROL, UNKNOWN = "text", "byte", "control", "unknown"


class Piece(NamedTuple):
    """
    A piece of a vocabulary in the words of all kinds of vocabularies.

    Args:
        kind: `TEXT`, `BYTE`, `CONTROL` (a token without text) or `UNKNOWN` (for what has no piece).
        text: Its text with the mark of a word's beginning; of a byte or a token without text its name.
        language: Language of its part of an aggregate vocabulary.
    """

    kind: str
    text: str
    language: str | None = None


def pieces_of(tokenizer: FastConformerTokenizer, language: str | None = None) -> list[Piece]:
    """The pieces of a tokenizer in the order of their ids; `language` is that of a part of an aggregate."""
    if tokenizer.language_parts:
        return [piece for name, part in tokenizer.language_parts.items() for piece in pieces_of(part, name)]
    options = tokenizer.text_options
    found = []
    for token in tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id)):
        if token == options["unk_token"]:
            kind, text = UNKNOWN, ""
        elif token in options["control_tokens"]:
            kind, text = CONTROL, token
        elif options["byte_tokens"] and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kind, text = BYTE, token
        else:
            kind, text = TEXT, _text_of(token, tokenizer.text_rule)
        found.append(Piece(kind, text, language))
    return found


def _text_of(token: str, text_rule: str) -> str:
    if text_rule == "character":
        return token.replace(" ", WORD_MARK)
    if text_rule == "wordpiece":
        return token.removeprefix(CONTINUATION_MARK) if token.startswith(CONTINUATION_MARK) else f"{WORD_MARK}{token}"
    return token


class PieceRows(NamedTuple):
    """
    The old rows that each row of a new vocabulary comes from.

    Args:
        kept: For each new id the old one of the same piece; None for a new piece.
        sources: For each new id the old ids whose mean its row is; one for a piece that is kept.
        num_spelled: New pieces that old pieces spell. The others begin as the mean of all.
    """

    kept: list[int | None]
    sources: list[list[int]]
    num_spelled: int


def match_pieces(old: Sequence[Piece], new: Sequence[Piece]) -> PieceRows:
    """
    Find the old rows for a new vocabulary.

    A piece stays where the old vocabulary has it in the same language, or where one of the two vocabularies tells no
    languages; each old piece stays once. A new piece is spelled with the fewest old pieces, among the same piece of
    another language.
    """
    kept = _find_kept(old, new)
    speller = _Speller(old)
    of_text = [number for number, piece in enumerate(old) if piece.kind == TEXT] or list(range(len(old)))
    sources, num_spelled = [], 0
    for piece, number in zip(new, kept, strict=True):
        if number is not None:
            sources.append([number])
            continue
        spelled = speller.spell(piece)
        num_spelled += bool(spelled)
        sources.append(spelled or of_text)
    return PieceRows(kept, sources, num_spelled)


def _find_kept(old: Sequence[Piece], new: Sequence[Piece]) -> list[int | None]:
    numbers: dict[Piece, int] = {}
    alike: dict[tuple[str, str], list[int]] = {}
    for number, piece in enumerate(old):
        numbers.setdefault(piece, number)
        alike.setdefault(piece[:2], []).append(number)
    kept: list[int | None] = [None] * len(new)
    taken = set()
    for place, piece in enumerate(new):
        same = numbers.get(piece)
        if same is not None and same not in taken:
            kept[place] = same
            taken.add(same)
    for place, piece in enumerate(new):
        if kept[place] is None:
            for number in alike.get(piece[:2], ()):
                if number not in taken and (piece.language is None or old[number].language is None):
                    kept[place] = number
                    taken.add(number)
                    break
    return kept


class _Speller:
    """Old pieces that spell a text: the fewest, the longest first; characters that have none are passed over."""

    def __init__(self, old: Sequence[Piece]) -> None:
        self._ids: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        for number, piece in enumerate(old):
            table = {TEXT: self._ids, BYTE: self._bytes}.get(piece.kind)
            if table is not None:
                table.setdefault(piece.text, number)
        self._longest = max(map(len, self._ids), default=0)

    def spell(self, piece: Piece) -> list[int]:
        """The ids; none for a piece that is not text."""
        if piece.kind == BYTE and piece.text in self._bytes:
            return [self._bytes[piece.text]]
        if piece.kind != TEXT:
            return []
        text = piece.text
        # For each place: characters without a piece, pieces, and the ids from there to the end.
        best: list[tuple[int, int, list[int]]] = [(0, 0, [])] * (len(text) + 1)
        for start in range(len(text) - 1, -1, -1):
            in_bytes = self._spell_bytes(text[start])
            missing, count, ids = best[start + 1]
            options = [(missing + (not in_bytes), count + len(in_bytes), [*in_bytes, *ids])]
            for end in range(start + 1, min(start + self._longest, len(text)) + 1):
                number = self._ids.get(text[start:end])
                if number is not None:
                    missing, count, ids = best[end]
                    options.insert(0, (missing, count + 1, [number, *ids]))
            best[start] = min(options, key=lambda option: option[:2])
        return best[0][2]

    def _spell_bytes(self, character: str) -> list[int]:
        found = [self._bytes.get(f"<0x{byte:02X}>") for byte in character.encode("utf-8", errors="replace")]
        return [] if None in found else [number for number in found if number is not None]
