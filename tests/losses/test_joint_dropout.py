"""The mask of a joint network's dropout: a function of the place, with the right share and no pattern."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer.losses.joint_dropout import fill_dropout_mask


def make_mask(rows: torch.Tensor, probability: float = 0.3, seed: int = 0, columns: int = 64) -> torch.Tensor:
    return fill_dropout_mask(torch.full((len(rows), columns), 9.0), rows, probability, seed)


def test_values_are_zero_or_the_scale() -> None:
    mask = make_mask(torch.arange(100), 0.2)
    assert set(mask.unique().tolist()) == {0.0, 1.25}


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_the_share_that_is_dropped(probability: float) -> None:
    dropped = make_mask(torch.arange(4000), probability) == 0
    spread = (probability * (1 - probability)) ** 0.5  # of a place
    assert float(dropped.float().mean()) == pytest.approx(probability, abs=5 * spread / 256000**0.5)
    for sums, count in ((dropped.sum(0), 4000), (dropped.sum(1), 64)):
        # Numbers of independent places in a column or row: their spread is that of a binomial distribution.
        assert float(sums.float().std()) == pytest.approx(count**0.5 * spread, rel=0.3)


def test_neighbours_are_independent() -> None:
    dropped = (make_mask(torch.arange(4000), 0.5) == 0).float() * 2 - 1
    for first, second in ((dropped[1:], dropped[:-1]), (dropped[:, 1:], dropped[:, :-1])):
        assert abs(float((first * second).mean())) < 5 / 250000**0.5


def test_a_slice_is_that_of_the_whole() -> None:
    rows = torch.tensor([17, 3, 250])
    assert torch.equal(make_mask(rows), make_mask(torch.arange(300))[rows])


def test_other_seeds_and_rows_have_other_masks() -> None:
    rows = torch.arange(50)
    assert not torch.equal(make_mask(rows, seed=0), make_mask(rows, seed=1))
    masks = make_mask(torch.cat([rows, rows + 2**32]))  # numbers above 32 bits are not cut off
    assert len(masks.unique(dim=0)) == 100


def test_the_ends() -> None:
    assert make_mask(torch.arange(9), 1.0).abs().sum() == 0
    assert (make_mask(torch.arange(9), 0.0) == 1).all()


@pytest.mark.gpu
def test_the_same_on_cuda() -> None:
    rows = torch.arange(300)
    found = fill_dropout_mask(torch.empty(300, 64, device="cuda"), rows.cuda(), 0.3, 7)
    assert torch.equal(found.cpu(), make_mask(rows, seed=7))
