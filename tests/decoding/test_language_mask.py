"""Scores of the tokens that a language is written with."""

from __future__ import annotations

import torch

from transformers_fastconformer.decoding.language_mask import FORBIDDEN_SCORE, CompiledLanguages, build_language_mask
from transformers_fastconformer.decoding.token_scorer import TokenScorer


def test_forbidden_tokens_are_below_all_others() -> None:
    mask = build_language_mask(torch.tensor([True, False, True]))
    scorer = TokenScorer([mask])
    states = torch.from_numpy(scorer.enter(None, 2))
    expected = torch.tensor([[0.0, FORBIDDEN_SCORE, 0.0]] * 2)
    assert torch.equal(scorer.scores(states), expected)
    after = scorer.step(states, torch.tensor([0, 2]))
    assert torch.equal(scorer.scores(after), expected)
    assert scorer.weights(2).tolist() == [0.0, 0.0]


def test_the_name_has_codes_and_tokens() -> None:
    names = {repr(CompiledLanguages(("pl",), build_language_mask(torch.tensor(row)))) for row in ([True], [False])}
    assert len(names) == 2
    assert all(name.startswith("CompiledLanguages(pl, ") for name in names)
