"""Tokens of a batch in a padded table: order, padding, empty clips."""

from __future__ import annotations

import torch

from transformers_fastconformer.decoding.hypotheses import TokenTable


def test_tokens_go_to_their_clips_in_order():
    table = TokenTable(torch.tensor([2, 0, 2, 0, 0]), batch_size=4)
    assert table.token_lengths.tolist() == [3, 0, 2, 0]
    assert table.fill(torch.tensor([1, 2, 3, 4, 5]), padding=9).tolist() == [
        [2, 4, 5],
        [9, 9, 9],
        [1, 3, 9],
        [9, 9, 9],
    ]


def test_values_of_several_numbers():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    table = TokenTable(torch.tensor([1, 1]), batch_size=2)
    assert table.fill(values).tolist() == [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]]


def test_nothing_emitted():
    for batch_size in (0, 3):
        table = TokenTable(torch.zeros(0, dtype=torch.int64), batch_size)
        assert table.token_lengths.tolist() == [0] * batch_size
        assert table.fill(torch.zeros(0)).shape == (batch_size, 0)
