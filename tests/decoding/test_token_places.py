"""Frames of tokens by attention: against all ways through the frames, and where heads look elsewhere."""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch

from transformers_fastconformer.decoding.token_places import place_tokens


def place_by_all_ways(weights: torch.Tensor) -> list[int]:
    """The best of all ways that never go back."""
    spread = weights.std(dim=1, keepdim=True, correction=0) + 1e-9
    scores = ((weights - weights.mean(dim=1, keepdim=True)) / spread).mean(dim=0)
    ways = combinations_with_replacement(range(scores.shape[1]), scores.shape[0])
    return list(max(ways, key=lambda way: sum(float(scores[row, frame]) for row, frame in enumerate(way))))


def test_the_best_way_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    for num_tokens, num_frames in ((1, 5), (4, 6), (6, 4), (3, 1)):
        weights = torch.randn(3, num_tokens, num_frames, generator=generator).softmax(dim=-1)
        assert place_tokens(weights).tolist() == place_by_all_ways(weights)


def test_frames_that_all_tokens_attend_to_say_nothing() -> None:
    places = [2, 2, 5, 9, 13]
    weights = torch.full((2, len(places), 16), 0.01)
    for token, frame in enumerate(places):
        weights[0, token, frame] = 0.2
    weights[:, :, 0] = 0.7  # both heads rest on the first frame, and one does nothing else
    assert place_tokens(weights).tolist() == places


def test_nothing_has_no_places() -> None:
    assert place_tokens(torch.zeros(2, 0, 5)).tolist() == []
    assert place_tokens(torch.zeros(2, 3, 0)).tolist() == [0, 0, 0]
