"""Phrases and language models of random tokens, for benchmarks of decoding."""

from __future__ import annotations

from typing import Any

import numpy as np

from transformers_fastconformer import CompiledPhrases, NgramLanguageModel, PhraseBoosting
from transformers_fastconformer.decoding.ngrams import build_ngram_automaton, count_ngrams
from transformers_fastconformer.decoding.phrase_boosting import build_phrase_automaton

NUM_PHRASES = (100, 20000)
NUM_TEXTS, TEXT_TOKENS, LM_ORDER, LM_WEIGHT = 2000, 12, 4, 0.3


def random_phrases(count: int, vocabulary: int) -> list[list[int]]:
    generator = np.random.default_rng(count)
    return [generator.integers(0, vocabulary, generator.integers(3, 7)).tolist() for _ in range(count)]


def random_texts(vocabulary: int) -> list[list[int]]:
    generator = np.random.default_rng(0)
    # Tokens as uneven as those of a language.
    return (generator.zipf(1.3, (NUM_TEXTS, TEXT_TOKENS)) % vocabulary).tolist()


def list_scores(vocabulary: int) -> dict[str, dict[str, Any]]:
    """Options of each kind of scores."""
    kinds: dict[str, dict[str, Any]] = {"none": {}}
    boosting = PhraseBoosting(["random tokens"])
    for count in NUM_PHRASES:
        phrases = [(phrase, 1) for phrase in random_phrases(count, vocabulary)]
        tree = build_phrase_automaton(phrases, boosting, vocabulary, 2.0)
        kinds[f"{count} phrases"] = {"boosting": CompiledPhrases(boosting, tree)}
    tables = count_ngrams(random_texts(vocabulary), LM_ORDER, vocabulary)
    language_model = NgramLanguageModel(build_ngram_automaton(tables, vocabulary), LM_ORDER, None, tables)
    kinds["language model"] = {"language_model": language_model, "language_model_weight": LM_WEIGHT}
    return kinds
