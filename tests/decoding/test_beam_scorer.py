"""Scores of the texts of a beam: the same on the host and by tensors, mixed with the blank by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from phrase_cases import random_tree

from transformers_fastconformer.decoding.beam_options import BeamOptions
from transformers_fastconformer.decoding.beam_scorer import BeamScorer
from transformers_fastconformer.decoding.token_automaton import TokenAutomaton
from transformers_fastconformer.decoding.token_scorer import TokenScorer

VOCABULARY, BEAMS = 5, 2
CPU = torch.device("cpu")


def make(scorer: TokenScorer, clips: int, mode: str = "lm_weighted_full", is_on_host: bool = True) -> BeamScorer:
    made = BeamScorer(scorer, None, clips, BeamOptions(num_beams=BEAMS, blank_lm_score_mode=mode), CPU)
    made.is_on_host = is_on_host
    return made


def test_clips_have_their_own_scores_and_weights() -> None:
    trees = [random_tree(0, VOCABULARY, strength=0.5)[0], TokenAutomaton.empty(VOCABULARY)]
    scorer = TokenScorer([trees])
    np.testing.assert_allclose(scorer.weights(2), [0.5, 0.0])
    made = make(scorer, 2)
    log_probs = torch.randn(2 * BEAMS, VOCABULARY + 1, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    rows = torch.arange(2 * BEAMS)
    fused = made.fuse(log_probs, rows, VOCABULARY, 1e-2)
    torch.testing.assert_close(fused[2:], log_probs[2:])  # the clip without phrases
    expected = trees[0].scores(trees[0].start_states[:1].long())[0]
    for row in range(BEAMS):
        blank = float(log_probs[row, VOCABULARY])
        rest = 0.5 * math.log1p(-min(math.exp(blank), 0.99))
        torch.testing.assert_close(fused[row, :VOCABULARY], log_probs[row, :VOCABULARY] + expected + rest)
        assert float(fused[row, VOCABULARY]) == pytest.approx(1.5 * blank)
    plain = make(scorer, 2, "no_score").fuse(log_probs, rows, VOCABULARY, 1e-2)
    torch.testing.assert_close(plain[:, VOCABULARY], log_probs[:, VOCABULARY])
    torch.testing.assert_close(plain[:BEAMS, :VOCABULARY], log_probs[:BEAMS, :VOCABULARY] + expected)


def test_both_ways_to_step_are_the_same() -> None:
    scorer = TokenScorer([random_tree(1, VOCABULARY)[0], random_tree(2, VOCABULARY)[0]])
    host, tensors = make(scorer, 3), make(scorer, 3, is_on_host=False)
    generator = torch.Generator().manual_seed(1)
    rows, seen = torch.arange(3 * BEAMS), set()
    for _ in range(12):
        parents = torch.randint(0, 3 * BEAMS, (3 * BEAMS,), generator=generator)
        tokens = torch.randint(0, VOCABULARY, (3 * BEAMS,), generator=generator)
        is_token = torch.rand(3 * BEAMS, generator=generator) < 0.7
        for one in (host, tensors):
            one.reorder(parents)
        host.step(rows[is_token], tokens[is_token])
        tensors.step_where(is_token, tokens)
        assert torch.equal(host.states, tensors.states)
        torch.testing.assert_close(host.scores_of(rows, VOCABULARY), tensors.scores_of(rows, VOCABULARY))
        seen.update(map(tuple, host.states.tolist()))
    assert len(seen) > 5
    assert torch.equal(host.leave(rows[::BEAMS]), host.states[::BEAMS])


def test_only_language_models_score_the_end() -> None:
    tree = random_tree(1, VOCABULARY)[0]
    ends = torch.full_like(tree.end_weights, -1.5)
    model = TokenAutomaton(**{**tree.tensors(), "end_weights": ends}, raises_end=False, weight=1.0)
    assert make(TokenScorer([tree, model]), 1).ends().tolist() == [-1.5] * BEAMS
    assert make(TokenScorer([tree]), 1).ends().tolist() == [0.0] * BEAMS
