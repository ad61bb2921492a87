"""Slices of a joint network: together they are all valid nodes once, and a band is covered by few of them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from transformers_fastconformer.losses.joint_slices import (
    Area,
    JointForm,
    JointNetwork,
    JointSlices,
    list_areas,
    list_band_areas,
)


def nodes_of(area: Area) -> list[tuple[int, int, int]]:
    return [
        (area.clip, frame, node)
        for frame in range(area.first_frame, area.end_frame)
        for node in range(area.first_node, area.end_node)
    ]


@pytest.mark.parametrize("rows", [1, 6, 10, 1000])
def test_areas_hold_each_valid_node_once(rows: int) -> None:
    frames, targets = [7, 0, 3, 1], [2, 4, 0, 9]
    areas = list(list_areas(frames, targets, rows))
    found = Counter(node for area in areas for node in nodes_of(area))
    expected = {
        (clip, frame, node) for clip in range(4) for frame in range(frames[clip]) for node in range(targets[clip] + 1)
    }
    assert set(found) == expected
    assert set(found.values()) == {1}
    assert all(area.num_rows <= max(rows, targets[area.clip] + 1) for area in areas)


@pytest.mark.parametrize("rows", [1, 5, 8, 1000])
def test_areas_of_a_band_hold_its_nodes_once(rows: int) -> None:
    first, end = [0, 0, 1, 4, 3, 3, 6], [2, 3, 3, 4, 6, 5, 7]  # frame 3 has no node
    areas = list(list_band_areas(5, first, end, rows))
    found = Counter(node for area in areas for node in nodes_of(area))
    assert set(found.values()) == {1}
    assert {(5, frame, node) for frame in range(7) for node in range(first[frame], end[frame])} <= set(found)
    assert all(area.num_rows <= rows or area.shape[0] == 1 for area in areas)
    if rows == 8:
        assert len(areas) == 4


def test_an_empty_band_has_no_area() -> None:
    assert list(list_band_areas(0, [3, 3], [0, 3], 10)) == []


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_outputs_are_those_of_the_layers(activation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    frames, predictions = torch.randn(2, 6, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    weight, bias = torch.randn(5, 4, generator=generator), torch.randn(5, generator=generator)
    slices = JointSlices(JointNetwork(frames, predictions, weight, bias, JointForm(activation)), rows=6)
    hidden = getattr(torch, activation)(frames[:, :, None] + predictions[:, None])
    whole = torch.nn.functional.linear(hidden, weight, bias)
    for area in (Area(1, 2, 4, 0, 3), Area(0, 0, 5, 1, 2), Area(1, 5, 6, 0, 1)):
        found = slices.compute(area).t().view(*area.shape, 5)
        torch.testing.assert_close(found, whole[area.of_nodes])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "gelu"}, "activation='gelu' is not supported; expected"),
        ({"dropout": 1.5}, "dropout=1.5 is not supported; expected a probability"),
        ({"dropout": float("nan")}, "dropout=nan is not supported"),
    ],
)
def test_forms_that_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JointForm(**change)  # type: ignore[arg-type]


def test_a_seed_is_drawn_where_one_is_needed() -> None:
    assert JointForm().with_seed().dropout_seed is None
    assert JointForm(dropout=0.1, dropout_seed=4).with_seed().dropout_seed == 4
    torch.manual_seed(0)
    first, second = JointForm(dropout=0.1).with_seed(), JointForm(dropout=0.1).with_seed()
    assert first != second
    torch.manual_seed(0)
    assert JointForm(dropout=0.1).with_seed() == first
