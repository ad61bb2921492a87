"""Sinusoids and the order of distances."""

from __future__ import annotations

import math

import pytest
import torch
from attention_cases import (
    CPU,
)

from transformers_fastconformer.modeling.positions import relative_positions, sinusoids


def test_sinusoids_are_sines_and_cosines_in_turn() -> None:
    table = sinusoids(torch.tensor([5, 0, -3]), 6, torch.float32)
    for row, position in zip(table, (5, 0, -3), strict=True):
        for column in range(6):
            angle = position / 10000 ** ((column - column % 2) / 6)
            assert float(row[column]) == pytest.approx(math.cos(angle) if column % 2 else math.sin(angle), abs=1e-6)


def test_relative_positions_run_from_the_far_left() -> None:
    assert relative_positions(3, CPU).tolist() == [2, 1, 0, -1, -2]
