"""Sums of automata, also for batches whose clips have their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phrase_cases import random_tree

from transformers_fastconformer.decoding.token_automaton import TokenAutomaton
from transformers_fastconformer.decoding.token_scorer import TokenScorer

VOCAB_SIZE = 5


def walk(scorer: TokenScorer, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of each clip's tokens along its row, and the clips' own states at the end."""
    states = torch.from_numpy(scorer.enter(None, len(rows)))
    found = []
    for tokens in torch.tensor(rows).T:
        scores = scorer.scores(states)
        values = np.zeros(scores.shape, dtype=np.float32)
        scorer.add_scores(values, states.numpy())
        assert np.allclose(values, scores.numpy(), atol=1e-5)
        assert np.array_equal(scorer.choose(np.zeros_like(values), states.numpy()), values.argmax(axis=1))
        found.append(scores.gather(1, tokens[:, None])[:, 0])
        after = scorer.step_rows(states.numpy(), tokens.numpy())
        states = scorer.step(states, tokens)
        assert np.array_equal(after, states.numpy())
    return torch.stack(found, dim=1), scorer.leave(states.numpy(), torch.device("cpu"))


def test_scores_add_up():
    first, second = random_tree(0, VOCAB_SIZE)[0], random_tree(1, VOCAB_SIZE)[0]
    rows = [[0, 1, 2, 3, 4, 0, 1], [4, 4, 1, 0, 2, 2, 3]]
    both, states = walk(TokenScorer([first, second]), rows)
    one, states_of_one = walk(TokenScorer([first]), rows)
    other, states_of_other = walk(TokenScorer([second]), rows)
    torch.testing.assert_close(both, one + other)
    assert torch.equal(states, torch.cat([states_of_one, states_of_other], dim=1))


def test_clips_with_their_own_automata():
    trees = [random_tree(seed, VOCAB_SIZE)[0] for seed in range(2)]
    trees = [trees[0], TokenAutomaton.empty(VOCAB_SIZE), trees[1], trees[0]]
    shared = random_tree(2, VOCAB_SIZE)[0]
    rows = [[(3 * place + clip) % VOCAB_SIZE for place in range(9)] for clip in range(4)]
    scorer = TokenScorer([trees, shared])
    found, states = walk(scorer, rows)
    for clip, tree in enumerate(trees):
        expected, own = walk(TokenScorer([tree, shared]), rows[clip : clip + 1])
        torch.testing.assert_close(found[clip], expected[0])
        assert torch.equal(states[clip], own[0])
    assert not scorer.is_shared
    assert TokenScorer([shared]).is_shared
    assert torch.equal(walk(scorer.select([2, 0]), [rows[2], rows[0]])[0], found[[2, 0]])
    # The states are each clip's own, so that it may go on next to others.
    entered = TokenScorer([[trees[2], trees[0]], shared]).enter(states[[2, 0]], 2)
    again = TokenScorer([[trees[2], trees[0]], shared]).leave(entered, torch.device("cpu"))
    assert torch.equal(again, states[[2, 0]])


def test_the_end_of_the_text():
    tree = random_tree(0, VOCAB_SIZE)[0]
    states = torch.arange(tree.num_states)[:, None]
    scores = TokenScorer([tree]).scores(states)
    with_end = TokenScorer([tree]).scores_with_end(states, end_id=2)
    expected = scores.amax(dim=1).clamp(min=0.0) + tree.end_weights
    torch.testing.assert_close(with_end[:, 2], expected)
    assert torch.equal(with_end[:, [0, 1, 3, 4]], scores[:, [0, 1, 3, 4]])
    model = TokenAutomaton(**tree.tensors(), raises_end=False)
    assert torch.equal(TokenScorer([model]).scores_with_end(states, end_id=2)[:, 2], tree.end_weights)


@pytest.mark.parametrize("states", [[[-1]], [[1000]], [[0, 0]], [[0], [0]]])
def test_states_of_other_automata_are_refused(states):
    with pytest.raises(ValueError, match="scorer_states"):
        TokenScorer([random_tree(0, VOCAB_SIZE)[0]]).enter(torch.tensor(states), 1)


def test_wrong_sizes_are_refused():
    tree = random_tree(0, VOCAB_SIZE)[0]
    with pytest.raises(ValueError, match="5 tokens; expected 6"):
        TokenScorer([tree]).check(1, 6)
    with pytest.raises(ValueError, match=r"\[5, 9\] tokens; expected those of one tokenizer"):
        TokenScorer([[tree, TokenAutomaton.empty(9)]])
    with pytest.raises(ValueError, match="boosting has 2 lists; expected 3"):
        TokenScorer([[tree, tree]]).check(3, VOCAB_SIZE)
