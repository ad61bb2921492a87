"""
ARPA files, the text form of n-gram language models.

NeMo's scripts write a token as the character whose number is the token's id and 100 more; other toolkits write the
tokens as they are in the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..validation import require
from .ngrams import END, MAX_ORDER, START, UNKNOWN, NgramTable

# NeMo 3.0's `DEFAULT_TOKEN_OFFSET`.
TOKEN_OFFSET = 100
SPECIAL = {"<s>": START, "</s>": END, "<unk>": UNKNOWN}
CODED = re.compile(r"(<s>|</s>|<unk>|.)\s?", re.DOTALL)
MAX_SHOWN = 5


def read_arpa(path: str | Path, vocabulary: Sequence[str], tokens: str) -> list[NgramTable]:
    """
    Read an ARPA file.

    Args:
        path: The file.
        vocabulary: The tokens of the checkpoint, without the blank.
        tokens: `"nemo"`, `"pieces"`, or `"auto"`: whichever its 1-grams are.

    Returns:
        Tables of order 1 and so on.

    Raises:
        ValueError: for a file that is not ARPA, that is broken, and that is of other tokens; with the line's number.
    """
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = _Lines(file)
        counts = _read_header(lines)
        read_tokens: Callable[[str], list[int]] | None = None
        tables = []
        for order, count in enumerate(counts, start=1):
            rows = list(_read_section(lines, order, count))
            if read_tokens is None:
                read_tokens = _choose_form([words for words, _, _ in rows], vocabulary, tokens)
            tables.append(_make_table(rows, order, read_tokens))
        lines.expect("\\end\\")
    return tables


class _Lines:
    """Lines that are not empty, with their numbers. Only a line feed ends one: other characters may be tokens."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.number = 0

    def next(self) -> str:
        for line in self.file:
            self.number += 1
            line = line.removesuffix("\n").removesuffix("\r")
            if line.strip(" \t"):
                return line
        raise ValueError(f"line {self.number}: the file ends; expected more, up to \\end\\.")

    def expect(self, text: str) -> None:
        found = self.next().strip()
        require(found == text, f"line {self.number}", found, repr(text))


def _read_header(lines: _Lines) -> list[int]:
    """Numbers of n-grams by order."""
    lines.expect("\\data\\")
    counts: list[int] = []
    while True:
        line = lines.next().strip()
        match = re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line)
        if match is None:
            break
        is_next = int(match[1]) == len(counts) + 1 and len(counts) < MAX_ORDER
        require(is_next, f"line {lines.number}", line, f"ngram {len(counts) + 1}=..., at most order {MAX_ORDER}")
        counts.append(int(match[2]))
    require(bool(counts), f"line {lines.number}", line, "ngram 1=...")
    require(line == "\\1-grams:", f"line {lines.number}", line, "'\\\\1-grams:'")
    return counts


def _read_section(lines: _Lines, order: int, count: int) -> Iterator[tuple[str, float, float]]:
    """Words, log-probability and backoff of each n-gram of an order."""
    if order > 1:
        lines.expect(f"\\{order}-grams:")
    for _ in range(count):
        line = lines.next()
        fields = line.split("\t")
        expected = f"a log-probability, {order} words and perhaps a backoff, with tabs between"
        require(len(fields) in (2, 3), f"line {lines.number}", line, expected)
        try:
            log_prob, backoff = float(fields[0]), float(fields[2]) if len(fields) == 3 else 0.0
        except ValueError:
            log_prob = backoff = np.nan
        is_number = np.isfinite(backoff) and log_prob <= 0 and np.isfinite(log_prob)
        require(bool(is_number), f"line {lines.number}", line, expected)
        yield fields[1], log_prob, backoff


def _choose_form(words: Sequence[str], vocabulary: Sequence[str], tokens: str) -> Callable[[str], list[int]]:
    """The function from words to ids for the form of the 1-grams."""
    ids = {token: number for number, token in enumerate(vocabulary)} | SPECIAL
    spoken = [word for word in words if word not in SPECIAL]
    # Tokens of an aggregate may be spelled alike.
    is_unique = len(set(vocabulary)) == len(vocabulary)
    not_pieces = [word for word in spoken if word not in ids or not is_unique]
    not_coded = [
        word for word in spoken if len(word) != 1 or not TOKEN_OFFSET <= ord(word) < TOKEN_OFFSET + len(vocabulary)
    ]
    if tokens == "auto":
        if not not_pieces and not not_coded and spoken:
            raise ValueError("1-grams: these may be tokens or NeMo's codes; expected tokens='pieces' or 'nemo'.")
        tokens = "nemo" if not_pieces else "pieces"
    require(tokens == "nemo" or is_unique, "tokens", tokens, "'nemo', as tokens of this checkpoint are spelled alike")
    wrong = not_pieces if tokens == "pieces" else not_coded
    if wrong:
        shown = ", ".join(map(repr, wrong[:MAX_SHOWN]))
        raise ValueError(
            f"1-grams: {len(wrong)} of {len(spoken)} are not tokens of this checkpoint ({shown}); expected a model of "
            "its own tokens, not one of words or of another tokenizer."
        )

    def read_pieces(text: str) -> list[int]:
        return [ids[word] for word in text.split(" ")]

    def read_coded(text: str) -> list[int]:
        symbols = CODED.findall(text)
        return [SPECIAL[symbol] if symbol in SPECIAL else ord(symbol) - TOKEN_OFFSET for symbol in symbols]

    return read_pieces if tokens == "pieces" else read_coded


def _make_table(
    rows: Sequence[tuple[str, float, float]], order: int, read_tokens: Callable[[str], list[int]]
) -> NgramTable:
    known: list[list[int]] = []
    for words, _, _ in rows:
        try:
            known.append(read_tokens(words))
        except KeyError as error:
            raise ValueError(f"{order}-grams: {words!r} has {error}, which is not among the 1-grams.") from None
        if len(known[-1]) != order:
            raise ValueError(f"{order}-grams: {words!r} has {len(known[-1])} words; expected {order}.")
    return NgramTable(
        np.asarray(known, dtype=np.int64).reshape(len(rows), order),
        np.asarray([log_prob for _, log_prob, _ in rows], dtype=np.float32),
        np.asarray([backoff for _, _, backoff in rows], dtype=np.float32),
    )


def write_arpa(tables: Sequence[NgramTable], vocabulary: Sequence[str] | None) -> str:
    """
    N-grams as the text of an ARPA file.

    Args:
        tables: Tables of order 1 and so on.
        vocabulary: Tokens to write; None: NeMo's codes.

    Raises:
        ValueError: for tokens that have spaces, which the format cannot write.
    """
    names: Mapping[int, str] = {number: name for name, number in SPECIAL.items()}
    ids = sorted({int(token) for token in tables[0].tokens[:, 0].tolist() if token >= 0})
    spelled: dict[int, str] = {**names}
    for token in ids:
        spelled[token] = chr(token + TOKEN_OFFSET) if vocabulary is None else vocabulary[token]
        is_one_word = vocabulary is None or (spelled[token].split() == [spelled[token]])
        require(is_one_word, "tokens", spelled[token], "tokens without spaces, or tokens='nemo'")
    parts = ["\\data\\\n", *(f"ngram {order}={len(table.tokens)}\n" for order, table in enumerate(tables, start=1))]
    for order, table in enumerate(tables, start=1):
        parts.append(f"\n\\{order}-grams:\n")
        columns: Any = zip(table.tokens.tolist(), table.log_probs, table.backoffs, strict=True)
        for tokens, log_prob, backoff in columns:
            words = " ".join(spelled[token] for token in tokens)
            is_history = order < len(tables) and tokens[-1] != END
            parts.append(f"{log_prob or 0.0!s}\t{words}" + (f"\t{backoff or 0.0!s}\n" if is_history else "\n"))
    parts.append("\n\\end\\\n")
    return "".join(parts)
