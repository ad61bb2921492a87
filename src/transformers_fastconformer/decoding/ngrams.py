"""
Tables of n-grams of tokens: counted and smoothed from texts, and made into an automaton.

Smoothing is interpolated modified Kneser-Ney (Chen and Goodman, 1999), as KenLM does it, which is what NeMo's language
models are made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from .token_automaton import TokenAutomaton

START, END, UNKNOWN = -1, -2, -3
# Log-probability to base 10 of what never comes, as ARPA files write it.
NEVER = -99.0
MAX_ORDER = 20
# Discounts where a text is too small to tell them, which are KenLM's.
DEFAULT_DISCOUNTS = (0.5, 1.0, 1.5)


class NgramTable(NamedTuple):
    """
    The n-grams of one order, sorted.

    Args:
        tokens: (n-grams, order), `START`, `END` and `UNKNOWN` among them.
        log_probs: (n-grams,), to base 10.
        backoffs: (n-grams,), to base 10; 0 where the n-gram is no history.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray


@dataclass
class _States:
    """Automaton states while they are made; the root is state 0, and the state after `START` is state 1."""

    vocab_size: int
    places: dict[tuple[int, int], int]  # state and token to the state after it, of histories only
    backoff_states: list[int]
    backoff_weights: list[float]
    ends: dict[int, float]

    def find(self, tokens: Sequence[int]) -> int | None:
        """State of a history; None: it is not known."""
        state: int | None = 0
        for token in tokens:
            state = None if state is None else self.places.get((state, token))
        return state

    def find_longest(self, tokens: Sequence[int]) -> int:
        """State of the longest known end of a history."""
        return next((found for start in range(len(tokens)) if (found := self.find(tokens[start:])) is not None), 0)


def build_ngram_automaton(tables: Sequence[NgramTable], vocab_size: int) -> TokenAutomaton:
    """
    Make n-grams into an automaton, by the rules of NeMo 3.0 (`NGramGPULanguageModel`).

    What is not known scores as the unknown word, divided by the number of tokens that are not known.

    Args:
        tables: Tables of order 1, 2 and so on.
        vocab_size: Number of tokens, without the blank.

    Raises:
        ValueError: for an n-gram whose history is not known, and for a table without `START`.
    """
    scale = np.log(10.0)
    states = _States(vocab_size, {}, [0, 0], [0.0, 0.0], {})
    root_weights = np.full(vocab_size, np.nan, dtype=np.float32)
    root_targets = np.zeros(vocab_size, dtype=np.int32)
    unknown, has_start = -np.inf, False
    for (token,), log_prob, backoff in zip(
        tables[0].tokens.tolist(),
        (tables[0].log_probs * scale).tolist(),
        (tables[0].backoffs * scale).tolist(),
        strict=True,
    ):
        if token == UNKNOWN:
            unknown = log_prob
        elif token == START:
            states.places[0, START], states.backoff_weights[1], has_start = 1, backoff, True
        elif token == END:
            states.ends[0] = log_prob
        else:
            root_weights[token], root_targets[token] = log_prob, len(states.backoff_states)
            _add_state(states, 0, token, 0, backoff)
    if not has_start:
        raise ValueError("1-grams: <s> is missing; expected it, with its backoff.")
    is_unknown = np.isnan(root_weights)
    num_unknown = int(is_unknown.sum())
    root_weights[is_unknown] = unknown - (np.log(num_unknown) if num_unknown > 1 else 0.0)

    arcs: list[tuple[int, int, int, float]] = []
    for order, table in enumerate(tables[1:], start=2):
        log_probs, backoffs = (table.log_probs * scale).tolist(), (table.backoffs * scale).tolist()
        for tokens, log_prob, backoff in zip(table.tokens.tolist(), log_probs, backoffs, strict=True):
            if UNKNOWN in tokens:  # no token of the model is unknown
                continue
            *history, token = tokens
            state = states.find(history)
            if state is None:
                raise ValueError(f"{order}-grams: the history {history} is not among the {order - 1}-grams.")
            if token == END:
                states.ends[state] = log_prob
                continue
            suffix = states.find_longest(tokens[1:])
            if order < len(tables):
                target = _add_state(states, state, token, suffix, backoff)
            else:
                target = suffix
            arcs.append((state, token, target, log_prob))
    return _to_automaton(states, arcs, root_targets, root_weights)


def _add_state(states: _States, state: int, token: int, suffix: int, backoff: float) -> int:
    following = len(states.backoff_states)
    if states.places.setdefault((state, token), following) != following:
        raise ValueError(f"n-grams: one that ends in {token} is there twice.")
    states.backoff_states.append(suffix)
    states.backoff_weights.append(backoff)
    return following


def _to_automaton(
    states: _States, arcs: list[tuple[int, int, int, float]], root_targets: np.ndarray, root_weights: np.ndarray
) -> TokenAutomaton:
    count = len(states.backoff_states)
    arcs.sort()
    columns = list(zip(*arcs, strict=True)) or [(), (), (), ()]
    sources = np.asarray(columns[0], dtype=np.int64)
    root_rows = np.full(count, -1, dtype=np.int32)
    root_rows[0] = 0
    backoffs = np.asarray(states.backoff_weights, dtype=np.float32)
    tables = {
        "arc_starts": np.searchsorted(sources, np.arange(count + 1)).astype(np.int64),
        "arc_tokens": np.asarray(columns[1], dtype=np.int32),
        "arc_targets": np.asarray(columns[2], dtype=np.int32),
        "arc_weights": np.asarray(columns[3], dtype=np.float32),
        "backoff_states": np.asarray(states.backoff_states, dtype=np.int32),
        "backoff_weights": backoffs,
        "end_weights": _resolve_ends(states, backoffs),
        "root_rows": root_rows,
        "root_targets": root_targets[None],
        "root_weights": root_weights[None],
        "start_states": np.ones(1, dtype=np.int64),
    }
    tensors = {name: torch.from_numpy(table) for name, table in tables.items()}
    return TokenAutomaton(**tensors, raises_end=False, weight=1.0)


def _resolve_ends(states: _States, backoffs: np.ndarray) -> np.ndarray:
    """Log-probability of the end in each state, (states,)."""
    ends = np.full(len(backoffs), -np.inf, dtype=np.float32)
    # A state backs off to one with a lower number, except for the first two.
    for state in [0, 1, *range(2, len(backoffs))]:
        if state in states.ends:
            ends[state] = states.ends[state]
        elif state:
            ends[state] = ends[states.backoff_states[state]] + backoffs[state]
    return ends


# From texts


def count_ngrams(texts: Sequence[Sequence[int]], order: int, vocab_size: int) -> list[NgramTable]:
    """
    Estimate n-grams of tokens.

    Args:
        texts: Tokens of each sentence.
        order: Largest order.
        vocab_size: Number of tokens, without the blank.

    Returns:
        Tables of order 1 to `order`.

    Raises:
        ValueError: for texts without tokens.
    """
    rows = [np.asarray([START, *text, END], dtype=np.int64) for text in texts if len(text)]
    if not rows:
        raise ValueError("texts: found no tokens; expected some.")
    flat = np.concatenate(rows)
    counts = [_Counts.of_tokens(flat)]
    while len(counts) < order:
        counts.append(counts[-1].extend())
    tables: list[NgramTable] = []
    lower: np.ndarray | None = None
    for number, here in enumerate(counts):
        above = counts[number + 1] if number + 1 < len(counts) else None
        probs, weights = _smooth(here, counts[number - 1] if number else None, above, lower, vocab_size)
        if number:
            last = tables[-1]
            tables[-1] = last._replace(backoffs=_to_log(weights[: len(last.backoffs)]))
        log_probs = _to_log(probs)
        if not number:
            log_probs[here.tokens[:, 0] == START] = NEVER
        tables.append(NgramTable(here.tokens, log_probs, np.zeros_like(log_probs)))
        lower = probs
    first = tables[0]
    if (first.tokens != UNKNOWN).all():
        # Mass of the tokens that the texts lack; each of them has an equal share.
        num_seen = int((first.tokens[:, 0] >= 0).sum())
        share = float(_unseen_share(counts[0], counts[1] if order > 1 else None, vocab_size)) * (vocab_size - num_seen)
        tables[0] = NgramTable(
            np.concatenate([first.tokens, [[UNKNOWN]]]),
            np.concatenate([first.log_probs, _to_log(np.array([share]))]),
            np.concatenate([first.backoffs, np.zeros(1, dtype=np.float32)]),
        )
    return tables


def _to_log(probs: np.ndarray) -> np.ndarray:
    """To base 10, as float32, so that what is written is what was computed."""
    return np.log10(np.maximum(probs, 10.0**NEVER)).astype(np.float32)


@dataclass
class _Counts:
    """
    Different n-grams of one order, and where they stand.

    Args:
        text: All sentences with their borders.
        tokens: (n-grams, order).
        raw: (n-grams,), how often each is there.
        prefixes, suffixes: (n-grams,), the n-gram without its last and without its first token, one order lower.
        at: (text,), n-gram that begins at each place; -1: none does.
    """

    text: np.ndarray
    tokens: np.ndarray
    raw: np.ndarray
    prefixes: np.ndarray
    suffixes: np.ndarray
    at: np.ndarray

    @classmethod
    def of_tokens(cls, text: np.ndarray) -> _Counts:
        tokens, at, raw = np.unique(text, return_inverse=True, return_counts=True)
        nothing = np.zeros(len(tokens), dtype=np.int64)
        return cls(text, tokens[:, None], raw, nothing, nothing, at)

    def extend(self) -> _Counts:
        order = self.tokens.shape[1]
        at = np.full(len(self.text), -1, dtype=np.int64)
        starts = np.arange(len(self.text) - order)
        # No n-gram goes over the end of a sentence.
        last = self.text[starts + order - 1]
        starts = starts[(self.at[starts] >= 0) & (last != END)]
        following = self.text[starts + order]
        span = int(self.text.max()) - UNKNOWN + 1
        keys = self.at[starts] * span + (following - UNKNOWN)
        unique, at[starts], raw = np.unique(keys, return_inverse=True, return_counts=True)
        prefixes = unique // span
        tokens = np.concatenate([self.tokens[prefixes], (unique % span + UNKNOWN)[:, None]], axis=1)
        suffixes = np.zeros(len(unique), dtype=np.int64)
        suffixes[at[starts]] = self.at[starts + 1]
        return _Counts(self.text, tokens, raw, prefixes, suffixes, at)


def _adjust(here: _Counts, above: _Counts | None) -> np.ndarray:
    """Counts of Kneser and Ney: in how many ways an n-gram is gone on with to the left, if it is not the longest."""
    if above is None:
        return here.raw
    ways = np.bincount(above.suffixes, minlength=len(here.raw))
    return np.where(here.tokens[:, 0] == START, here.raw, ways)


def _discounts(adjusted: np.ndarray) -> np.ndarray:
    """Discounts of a count of 0, 1, 2, and 3 or more, (4,)."""
    ones, twos, threes, fours = (int((adjusted == number).sum()) for number in range(1, 5))
    found = DEFAULT_DISCOUNTS
    if min(ones, twos, threes, fours) > 0:
        share = ones / (ones + 2.0 * twos)
        found = (1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes)
        if not all(0 <= discount <= number for number, discount in enumerate(found, start=1)):
            found = DEFAULT_DISCOUNTS
    return np.array([0.0, *found])


def _smooth(
    here: _Counts, below: _Counts | None, above: _Counts | None, lower: np.ndarray | None, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the n-grams of an order, and the weight of the lower order after each of the order below."""
    adjusted = _adjust(here, above)
    if below is None:
        adjusted = np.where(here.tokens[:, 0] == START, 0, adjusted)  # is never predicted
    discounts = _discounts(adjusted)[np.minimum(adjusted, 3)]
    num_histories = 1 if below is None else len(below.raw)
    totals = np.bincount(here.prefixes, adjusted, minlength=num_histories)
    taken = np.bincount(here.prefixes, discounts, minlength=num_histories)
    # After what is no history all is left to the lower order, at no cost.
    weights = np.divide(taken, totals, out=np.ones(num_histories), where=totals > 0)
    kept = np.maximum(adjusted - discounts, 0.0) / np.maximum(totals[here.prefixes], 1)
    rest = 1.0 / (vocab_size + 1) if lower is None else lower[here.suffixes]
    return kept + weights[here.prefixes] * rest, weights


def _unseen_share(first: _Counts, second: _Counts | None, vocab_size: int) -> float:
    """Probability of a token that the texts lack."""
    _, weights = _smooth(first, None, second, None, vocab_size)
    return float(weights[0]) / (vocab_size + 1)
