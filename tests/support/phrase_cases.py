"""Trees of random phrases over few tokens, in which phrases begin, hold and follow one another."""

from __future__ import annotations

import random

from phrase_loop import PhraseLoop

from transformers_fastconformer.decoding.phrase_boosting import PhraseBoosting, build_phrase_automaton
from transformers_fastconformer.decoding.token_automaton import TokenAutomaton


def random_phrases(seed: int, vocab_size: int, num_phrases: int = 8, max_tokens: int = 5) -> list[list[int]]:
    picker = random.Random(seed)
    return [[picker.randrange(vocab_size) for _ in range(picker.randint(1, max_tokens))] for _ in range(num_phrases)]


def random_tree(seed: int, vocab_size: int, strength: float = 1.0) -> tuple[TokenAutomaton, PhraseLoop]:
    """A tree and its truth."""
    phrases = random_phrases(seed, vocab_size)
    options = {"context_score": 0.5 + seed % 3, "unknown_score": -0.25 * (seed % 2)}
    boosting = PhraseBoosting(["not read"], strength=strength, **options)
    tree = build_phrase_automaton([(phrase, 1) for phrase in phrases], boosting, vocab_size, 2.0)
    return tree, PhraseLoop(phrases, **options)


def random_texts(seed: int, count: int = 60) -> list[list[int]]:
    """Sentences of six tokens, the lower ones more often."""
    picker = random.Random(seed)
    return [[min(picker.randrange(6), picker.randrange(6)) for _ in range(picker.randint(1, 7))] for _ in range(count)]
