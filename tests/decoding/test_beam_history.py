"""Texts are read along the beams that they came through."""

from __future__ import annotations

import torch

from transformers_fastconformer.decoding.beam_history import NO_LABEL, BeamHistory, rank_beams

BLANK, PADDING = 9, 7


def beams(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def test_texts_follow_their_parents() -> None:
    history = BeamHistory(BLANK)
    steps = [
        # parents, labels, frames, log-probabilities
        (beams(0, 0), beams(1, 2), beams(0, 0), beams(-0.1, -0.2)),
        (beams(1, 0), beams(3, BLANK), beams(0, 0), beams(-0.3, -0.4)),
        (beams(0, 1), beams(NO_LABEL, 4), beams(5, 1), beams(0.0, -0.5)),
    ]
    for parents, labels, frames, log_probs in steps:
        history.add(parents.long(), labels.long(), frames.long(), log_probs, frames.long() + 1, 2.0 * log_probs)
    found = history.collect(torch.tensor([[1, 0, 0]]), beams(-1.0, -2.0, -torch.inf), PADDING, True, True)
    assert found.tokens.tolist() == [[1, 4], [2, 3], [PADDING, PADDING]]
    assert found.token_lengths.tolist() == [2, 2, 0]
    assert found.frame_indices.tolist() == [[0, 1], [0, 0], [0, 0]]
    torch.testing.assert_close(found.log_probs, torch.tensor([[-0.1, -0.5], [-0.2, -0.3], [0.0, 0.0]]))
    assert found.durations is not None
    assert found.durations.tolist() == [[1, 2], [1, 1], [0, 0]]
    assert found.scores is not None
    torch.testing.assert_close(found.scores, 2.0 * found.log_probs)
    assert found.totals is not None
    assert found.totals.tolist() == [-1.0, -2.0, -torch.inf]


def test_nothing_happened() -> None:
    found = BeamHistory(BLANK).collect(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1), PADDING, True, True)
    assert found.tokens.shape == (2, 0)
    assert found.token_lengths.tolist() == [0, 0]
    assert found.log_probs.dtype == torch.float32


def test_ranks() -> None:
    scores, lengths = beams(-4.0, -3.0, -torch.inf, -9.0), torch.tensor([[3, 1, 0, 8]])
    chosen, totals = rank_beams(scores, lengths, 3, normalizes_length=False)
    assert chosen.tolist() == [[1, 0, 3]]
    assert totals.tolist() == [[-3.0, -4.0, -9.0]]
    chosen, totals = rank_beams(scores, lengths, 2, normalizes_length=True)  # -1, -1.5, -1
    assert chosen.tolist() == [[0, 3]]
    assert totals.tolist() == [[-4.0, -9.0]]
