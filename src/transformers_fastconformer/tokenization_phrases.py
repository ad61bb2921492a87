"""Phrases to tokens: what a tokenizer, its alternatives and variants of case make of the phrases to boost."""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from .decoding.phrase_boosting import CompiledPhrases, PhraseBoosting, build_phrase_automaton
from .tokenization_fastconformer import FastConformerTokenizer
from .tokenization_piece_text import WORD_MARK

# Compiled phrases that are kept of each tokenizer.
MAX_KEPT = 16
# Depth scaling of NeMo's configurations, for attention decoders and for all others.
ATTENTION_DEPTH_SCALING, DEPTH_SCALING = 1.0, 2.0
# Random splits that are drawn for each that is wanted, at most: many come twice.
DRAWS_PER_SPLIT = 5
# Phrases that a message names.
MAX_NAMED = 5

_kept: WeakKeyDictionary[FastConformerTokenizer, OrderedDict[PhraseBoosting, CompiledPhrases]] = WeakKeyDictionary()
_lock = threading.Lock()


def compile_phrases(boosting: PhraseBoosting, tokenizer: FastConformerTokenizer) -> CompiledPhrases:
    """
    Make the phrases into a tree of tokens of a checkpoint. The same phrases are compiled once for each tokenizer.

    Args:
        boosting: The phrases and their options.
        tokenizer: The checkpoint's tokenizer.

    Returns:
        The tree, which `model.generate(..., boosting=...)` takes.

    Raises:
        ValueError: for phrases that the vocabulary cannot write, for a language that the tokenizer does not know, and
            for `num_splits` with a tokenizer that has only one split of each text; it names them.
    """
    with _lock:
        kept = _kept.setdefault(tokenizer, OrderedDict())
        if boosting not in kept:
            kept[boosting] = _compile(boosting, tokenizer)
        kept.move_to_end(boosting)
        while len(kept) > MAX_KEPT:
            kept.popitem(last=False)
        return next(reversed(kept.values()))


def _compile(boosting: PhraseBoosting, tokenizer: FastConformerTokenizer) -> CompiledPhrases:
    by_language: dict[str | None, list[str]] = {}
    for phrase in boosting.phrases:
        text, language = (phrase, None) if isinstance(phrase, str) else phrase
        by_language.setdefault(language, []).append(text)
    token_phrases: list[tuple[Sequence[int], int]] = []
    for language, texts in by_language.items():
        token_phrases += _tokens_of(list(dict.fromkeys(texts)), language, boosting, tokenizer)
    depth_scaling = boosting.depth_scaling
    if depth_scaling is None:
        depth_scaling = ATTENTION_DEPTH_SCALING if tokenizer.prompt_tokens else DEPTH_SCALING
    automaton = build_phrase_automaton(token_phrases, boosting, tokenizer.blank_token_id, float(depth_scaling))
    return CompiledPhrases(boosting, automaton)


def _tokens_of(
    texts: list[str], language: str | None, boosting: PhraseBoosting, tokenizer: FastConformerTokenizer
) -> list[tuple[Sequence[int], int]]:
    """Tokens of phrases of one language, with the number of their characters."""
    variants = [_case_variants(text) if boosting.case_variants else [text] for text in texts]
    flat = [variant for written in variants for variant in written]
    ids = tokenizer(flat, **({} if language is None else {"language": language}))["input_ids"]
    unknown = tokenizer.unknown_token_ids
    splitter = None
    if boosting.num_splits > 1:
        splitter = _Splitter(*tokenizer.part_of_language(language), boosting)
    found: list[tuple[Sequence[int], int]] = []
    refused: list[str] = []
    place = 0
    for text, written in zip(texts, variants, strict=True):
        rows = ids[place : place + len(written)]
        place += len(written)
        writable = [(row, variant) for row, variant in zip(rows, written, strict=True) if row and not unknown & {*row}]
        if not writable:
            refused.append(text)
        for row, variant in writable:
            splits = [row] if splitter is None else splitter.splits(row)
            found += [(split, len(variant)) for split in splits]
    if refused:
        named = ", ".join(map(repr, refused[:MAX_NAMED]))
        more = f" and {len(refused) - MAX_NAMED} more" if len(refused) > MAX_NAMED else ""
        raise ValueError(
            f"phrases: {named}{more} cannot be written with the vocabulary of this checkpoint; expected phrases in "
            "its letters and case (case_variants=True tries others)."
        )
    return found


def _case_variants(text: str) -> list[str]:
    words = " ".join(word[:1].upper() + word[1:] for word in text.split(" "))
    return list(dict.fromkeys([text, text.lower(), text[:1].upper() + text[1:], words, text.upper()]))


class _Splitter:
    """
    Random splits of phrases into tokens, as SentencePiece draws them: by leaving merges out, or by probability.

    Args:
        tokenizer: Tokenizer of the phrases.
        first_id: Id of its first token, in an aggregate.
        boosting: The options of splits.
    """

    def __init__(self, tokenizer: FastConformerTokenizer, first_id: int, boosting: PhraseBoosting) -> None:
        self.tokenizer, self.first_id, self.boosting = tokenizer, first_id, boosting
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        kind = model["type"]
        if kind not in ("BPE", "Unigram") or tokenizer.text_rule != "sentencepiece":
            raise ValueError(
                f"num_splits={boosting.num_splits} is not supported by a tokenizer with text_rule="
                f"{tokenizer.text_rule!r}, which has one split of each text; expected 1."
            )
        self.ranks: dict[tuple[str, str], int] = {}
        if kind == "BPE":
            pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
            self.ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
            self.ids = dict(model["vocab"])
        else:
            self.ids = {piece: place for place, (piece, _) in enumerate(model["vocab"])}
            self.log_probs = dict(map(tuple, model["vocab"]))
        self.max_piece = max(map(len, self.ids))

    def splits(self, ids: Sequence[int]) -> list[Sequence[int]]:
        """The tokenizer's own split, and different ones that were drawn."""
        pieces = self.tokenizer.vocabulary_tokens(token_id - self.first_id for token_id in ids)
        text = "".join(pieces)
        found = {tuple(ids): None}
        if self.tokenizer.byte_tokens and any(piece.startswith("<0x") for piece in pieces):
            return list(found)
        draw = random.Random(f"{self.boosting.seed} {text}")
        for _ in range(self.boosting.num_splits * DRAWS_PER_SPLIT):
            if len(found) >= self.boosting.num_splits:
                break
            drawn = self._merge(text, draw) if self.ranks else self._sample(text, draw)
            # NeMo leaves splits out that begin with a bare word mark, which begins all words.
            if drawn and drawn[0] != WORD_MARK:
                found[tuple(self.ids[piece] + self.first_id for piece in drawn)] = None
        return list(found)

    def _merge(self, text: str, draw: random.Random) -> list[str]:
        """BPE with dropout (Provilkov et al., 2020): each merge that could be done is left out at random."""
        pieces = list(text)
        while True:
            ranked = [
                (self.ranks[pair], place)
                for place, pair in enumerate(itertools.pairwise(pieces))
                if pair in self.ranks and draw.random() >= self.boosting.split_alpha
            ]
            if not ranked:
                return pieces if all(piece in self.ids for piece in pieces) else []
            _, place = min(ranked)
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]

    def _sample(self, text: str, draw: random.Random) -> list[str]:
        """A split by its probability to the power of `split_alpha` (Kudo, 2018): sums forwards, draws backwards."""
        alpha = self.boosting.split_alpha
        sums = [0.0]
        arriving: list[list[tuple[int, float]]] = [[]]
        for end in range(1, len(text) + 1):
            starts = range(max(0, end - self.max_piece), end)
            ways = [
                (start, sums[start] + alpha * self.log_probs[text[start:end]])
                for start in starts
                if text[start:end] in self.log_probs and sums[start] > -math.inf
            ]
            most = max((log_prob for _, log_prob in ways), default=-math.inf)
            total = sum(math.exp(log_prob - most) for _, log_prob in ways)
            sums.append(most + math.log(total) if ways else -math.inf)
            arriving.append(ways)
        pieces: list[str] = []
        end = len(text)
        while end > 0:
            ways = arriving[end]
            if not ways:
                return []
            (start,) = draw.choices(
                [start for start, _ in ways], [math.exp(log_prob - sums[end]) for _, log_prob in ways]
            )
            pieces.append(text[start:end])
            end = start
        return pieces[::-1]
