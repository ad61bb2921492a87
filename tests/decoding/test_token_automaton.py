"""The two forms of an automaton give the same, and automata side by side what each gives by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phrase_cases import random_tree

from transformers_fastconformer.decoding.token_automaton import TokenAutomaton

VOCAB_SIZE = 7


@pytest.mark.parametrize("seed", range(4))
def test_host_tables_equal_the_form_with_fixed_shapes(seed):
    tree, _ = random_tree(seed, VOCAB_SIZE)
    states = torch.arange(tree.num_states)
    expected = tree.scores(states).numpy()
    found = np.zeros_like(expected)
    tree.host.add_scores(found, states.numpy())
    assert np.array_equal(found, expected)
    for state in range(tree.num_states):
        one = np.zeros((1, VOCAB_SIZE), dtype=np.float32)
        tree.host.add_scores(one, np.array([state]))
        assert np.array_equal(one[0], expected[state])
    for token in range(VOCAB_SIZE):
        tokens = torch.full_like(states, token)
        assert np.array_equal(tree.host.step(states.numpy(), tokens.numpy()), tree.step(states, tokens).numpy())


def test_automata_side_by_side():
    trees = [random_tree(seed, VOCAB_SIZE)[0] for seed in (0, 1)]
    trees.insert(1, TokenAutomaton.empty(VOCAB_SIZE))
    joined, offsets = TokenAutomaton.join(trees)
    assert joined.num_states == sum(tree.num_states for tree in trees)
    for tree, offset in zip(trees, offsets, strict=True):
        states = torch.arange(tree.num_states)
        assert torch.equal(joined.scores(states + offset), tree.scores(states))
        tokens = states % VOCAB_SIZE
        assert torch.equal(joined.step(states + offset, tokens) - offset, tree.step(states, tokens))
        assert joined.start_states[offsets.index(offset)] == tree.start_states[0] + offset


def test_scaled_scores_are_made_once():
    tree, _ = random_tree(2, VOCAB_SIZE)
    states = torch.arange(tree.num_states)
    half = tree.scaled(0.5)
    torch.testing.assert_close(half.scores(states), 0.5 * tree.scores(states))
    assert half is tree.scaled(0.5)
    assert half.arc_tokens is tree.arc_tokens
    assert tree.scaled(1.0) is tree
    assert half.fingerprint != tree.fingerprint
    assert tree.to("cpu") is tree


def test_an_empty_automaton_scores_nothing():
    empty = TokenAutomaton.empty(3)
    assert empty.scores(torch.zeros(2, dtype=torch.int64)).tolist() == [[0.0] * 3] * 2
    assert empty.step(torch.zeros(1, dtype=torch.int64), torch.tensor([2])).tolist() == [0]
    assert empty.max_backoffs == empty.max_arcs == 0


def test_backoffs_in_a_circle_are_refused():
    tree, _ = random_tree(0, VOCAB_SIZE)
    backoffs = tree.backoff_states.clone()
    backoffs[1], backoffs[2] = 2, 1
    with pytest.raises(ValueError, match="backoff_states"):
        _ = replace(tree, backoff_states=backoffs).max_backoffs
