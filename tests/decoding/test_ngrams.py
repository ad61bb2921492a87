"""N-grams as an automaton against the definition of backing off, and their estimation against counts by hand."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from phrase_cases import random_texts
from phrase_loop import ngram_log10

from transformers_fastconformer.decoding.ngrams import (
    END,
    START,
    UNKNOWN,
    NgramTable,
    build_ngram_automaton,
    count_ngrams,
)

VOCAB_SIZE = 6


def as_dictionary(tables: list[NgramTable]) -> dict[tuple[int, ...], tuple[float, float]]:
    return {
        tuple(tokens): (log_prob, backoff)
        for table in tables
        for tokens, log_prob, backoff in zip(
            table.tokens.tolist(), table.log_probs.tolist(), table.backoffs.tolist(), strict=True
        )
    }


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_scores_follow_the_definition_of_backing_off(order):
    tables = count_ngrams(random_texts(0), order, VOCAB_SIZE)
    ngrams = as_dictionary(tables)
    automaton = build_ngram_automaton(tables, VOCAB_SIZE)
    picker = random.Random(1)
    for _ in range(20):
        state, history = automaton.start_states[:1], (START,)
        for _ in range(8):
            known = history[-(order - 1) :] if order > 1 else ()
            expected = [ngram_log10(ngrams, known, token) * math.log(10) for token in range(VOCAB_SIZE)]
            torch.testing.assert_close(automaton.scores(state)[0], torch.tensor(expected), rtol=1e-4, atol=1e-4)
            end = ngram_log10(ngrams, known, END) * math.log(10)
            assert float(automaton.end_weights[state]) == pytest.approx(end, abs=1e-4)
            token = picker.randrange(VOCAB_SIZE)
            state, history = automaton.step(state, torch.tensor([token])), (*history, token)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_add_up_to_one_in_every_state(order):
    """Also with tokens that the texts lack, which share what is left."""
    texts = [[token for token in text if token != 3] or [0] for text in random_texts(1)]
    tables = count_ngrams(texts, order, VOCAB_SIZE + 3)
    automaton = build_ngram_automaton(tables, VOCAB_SIZE + 3)
    states = torch.arange(automaton.num_states)
    total = automaton.scores(states).double().exp().sum(dim=1) + automaton.end_weights.double().exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-4)
    unknown = automaton.scores(torch.zeros(1, dtype=torch.int64))[0, [3, VOCAB_SIZE, VOCAB_SIZE + 2]]
    assert (unknown == unknown[0]).all()
    assert float(unknown[0]) > -20


def test_counts_by_hand():
    """One sentence, twice, with the discounts for texts that are too small: 1.0 for a count of 2."""
    tables = count_ngrams([[0, 1], [0, 1]], 2, vocab_size=2)
    ngrams = as_dictionary(tables)
    # Each of 0, 1 and the end comes after one token only, discounted by 0.5; 1/3 each is what is left to share.
    for token in (0, 1, END):
        assert 10 ** ngrams[(token,)][0] == pytest.approx(0.5 / 3 + 0.5 / 3)
    # The pair is there twice, of which 1.0 is taken off.
    assert 10 ** ngrams[(START, 0)][0] == pytest.approx(0.5 + 0.5 / 3)
    assert 10 ** ngrams[(0,)][1] == pytest.approx(0.5)
    assert ngrams[(START,)][0] == -99.0


def test_likely_texts_score_more():
    texts = [[0, 1, 2]] * 30 + [[2, 1, 0]] * 3
    automaton = build_ngram_automaton(count_ngrams(texts, 3, VOCAB_SIZE), VOCAB_SIZE)

    def score(text: list[int]) -> float:
        state, total = automaton.start_states[:1], 0.0
        for token in text:
            total += float(automaton.scores(state)[0, token])
            state = automaton.step(state, torch.tensor([token]))
        return total + float(automaton.end_weights[state])

    best = max(itertools.product(range(3), repeat=3), key=lambda text: score(list(text)))
    assert best == (0, 1, 2)
    assert score([2, 1, 0]) > score([1, 1, 1])


def test_wrong_tables_are_refused():
    def table(*rows: list[int]) -> NgramTable:
        tokens = np.array(rows)
        return NgramTable(tokens, np.full(len(rows), -1.0, np.float32), np.zeros(len(rows), np.float32))

    with pytest.raises(ValueError, match="<s> is missing"):
        build_ngram_automaton([table([0], [END])], 2)
    with pytest.raises(ValueError, match=r"history \[1\]"):
        build_ngram_automaton([table([0], [START], [END]), table([1, 0])], 2)
    with pytest.raises(ValueError, match="twice"):
        build_ngram_automaton([table([0], [0], [START])], 2)
    with pytest.raises(ValueError, match="no tokens"):
        count_ngrams([[], []], 2, 2)


def test_ngrams_with_the_unknown_word_are_left_out():
    rows = [[0], [START], [END], [UNKNOWN]]
    first = NgramTable(np.array(rows), np.array([-1, -99, -1, -0.5], np.float32), np.zeros(4, np.float32))
    second = NgramTable(
        np.array([[UNKNOWN, 0], [0, UNKNOWN]]), np.array([-1, -1], np.float32), np.zeros(2, np.float32)
    )
    automaton = build_ngram_automaton([first, second], 3)
    scores = automaton.scores(torch.zeros(1, dtype=torch.int64))[0]
    half = (-0.5 - math.log10(2)) * math.log(10)
    assert scores.tolist() == pytest.approx([-math.log(10), half, half])
