"""Tokens that a language is written with, as scores that every decoder and beam adds to the model's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .token_automaton import TokenAutomaton

# Added to the log-probability of a token that may not be written: below those of all that may, and finite, so that
# sums and differences of scores stay numbers.
FORBIDDEN_SCORE = -1e4


@dataclass(frozen=True)
class CompiledLanguages:
    """
    Languages as tokens of one checkpoint, as decoders take them.

    Args:
        codes: The languages.
        automaton: One state that scores tokens 0 which may be written, and all others `FORBIDDEN_SCORE`.
    """

    codes: tuple[str, ...]
    automaton: TokenAutomaton

    def __repr__(self) -> str:
        """The codes and a hash of the tokens."""
        return f"CompiledLanguages({', '.join(self.codes)}, {self.automaton.fingerprint})"


def build_language_mask(allowed: torch.Tensor) -> TokenAutomaton:
    """
    Build the scores of tokens that may be written.

    Args:
        allowed: (vocabulary,), bool; True means that the token may be written.
    """
    empty = TokenAutomaton.empty(allowed.shape[0])
    scores = torch.where(allowed, 0.0, FORBIDDEN_SCORE).to(torch.float32)
    return replace(empty, root_weights=scores[None])
