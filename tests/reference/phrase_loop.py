"""Scores of phrases and n-grams by recursion, and classes chosen frame by frame: the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class PhraseLoop:
    """
    Bonus of tokens after a text, by the longest end of the text that begins a phrase.

    Args:
        phrases: Tokens of each phrase.
        context_score, depth_scaling, unknown_score: As in `PhraseBoosting`, with `depth_scaling` decided.
    """

    def __init__(
        self,
        phrases: Sequence[Sequence[int]],
        context_score: float = 1.0,
        depth_scaling: float = 2.0,
        unknown_score: float = 0.0,
    ) -> None:
        self.ends = {tuple(phrase) for phrase in phrases}
        self.prefixes = {tuple(phrase[:count]) for phrase in phrases for count in range(len(phrase) + 1)}
        self.context_score, self.depth_scaling = context_score, depth_scaling
        self.unknown_score = unknown_score

    def bonus(self, depth: int) -> float:
        return self.context_score if depth == 1 else self.context_score * self.depth_scaling + math.log(depth)

    def total(self, prefix: Sequence[int]) -> float:
        return sum(self.bonus(depth + 1) for depth in range(len(prefix)))

    def state(self, text: Sequence[int]) -> tuple[int, ...]:
        ends = (tuple(text[start:]) for start in range(len(text) + 1))
        return next(end for end in ends if end in self.prefixes)

    def scores(self, text: Sequence[int], vocab_size: int) -> list[float]:
        return [self._score(self.state(text), token) for token in range(vocab_size)]

    def _score(self, state: tuple[int, ...], token: int) -> float:
        if (*state, token) in self.prefixes:
            return self.bonus(len(state) + 1)
        if not state:
            return self.unknown_score
        suffix = self.state(state[1:])
        taken_back = 0.0 if state in self.ends else self.total(suffix) - self.total(state)
        return taken_back + self._score(suffix, token)


def ngram_log10(ngrams: dict[tuple[Any, ...], tuple[float, float]], history: tuple[Any, ...], word: Any) -> float:
    """Log-probability of a word by the definition of backing off: n-grams to their log-probability and backoff."""
    if (*history, word) in ngrams:
        return ngrams[(*history, word)][0]
    if not history:
        return -math.inf
    return ngrams.get(history, (0.0, 0.0))[1] + ngram_log10(ngrams, history[1:], word)


def choose_ctc_by_loop(log_probs: Sequence[Sequence[float]], blank: int, score: Any) -> list[int]:
    """
    Class of each frame of a clip, by NeMo's rule for scores of phrases, one frame after the other.

    Args:
        log_probs: (frames, classes).
        blank: Class of the blank, the last one.
        score: Tokens so far to the scores of all tokens.
    """
    labels: list[int] = []
    text: list[int] = []
    last = blank
    for row in log_probs:
        best = max(range(len(row)), key=row.__getitem__)
        if best not in (blank, last):
            added = score(text)
            fused = [value + bonus for value, bonus in zip(row[:blank], added, strict=True)]
            best = max((token for token in range(blank) if token != last), key=fused.__getitem__)
            text.append(best)
        labels.append(best)
        last = best
    return labels
