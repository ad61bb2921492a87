"""Names of tensors there and here, and the forms of their values."""

from __future__ import annotations

import pytest
import torch
from interop_cases import WRITTEN, build_ours

from transformers_fastconformer.interop.config_form import config_to_transformers
from transformers_fastconformer.interop.weight_names import (
    HalvedForm,
    ZeroFilledForm,
    ZeroFilledGatesForm,
    name_table,
)


@pytest.mark.parametrize("name", WRITTEN)
def test_names_map_there_and_back(name: str) -> None:
    kind, overrides, head = WRITTEN[name]
    model = build_ours(kind, **overrides)
    family, _ = config_to_transformers(model.config, head)
    table = name_table(family, model.config)
    names = [key if kind != "encoder" else f"encoder.{key}" for key in model.state_dict()]
    mapped = {ours: table.to_theirs(ours) for ours in names}
    for ours, found in mapped.items():
        if found is not None:
            back = table.to_ours(found[0])
            assert back is not None
            assert back == (ours, found[1])
    theirs = [found[0] for found in mapped.values() if found is not None]
    assert len(set(theirs)) == len(theirs)


def test_narrow_tensors_are_filled_up_with_zeros() -> None:
    form = ZeroFilledForm()
    assert form.can_write((2, 3), (4, 3))
    assert not form.can_write((2, 3), (4, 2))
    assert not form.can_write((2, 3), (2, 3, 1))
    assert not form.can_read((4, 3), (2, 3))
    tensor = torch.arange(6.0).reshape(2, 3)
    assert form.to_theirs(tensor, (2, 3)) is tensor
    filled = form.to_theirs(tensor, (4, 4))
    assert torch.equal(filled[:2, :3], tensor)
    assert filled.count_nonzero() == tensor.count_nonzero()


def test_gates_are_filled_up_one_by_one() -> None:
    weight = torch.arange(1.0, 25.0).reshape(8, 3)  # four gates of two units
    filled = ZeroFilledGatesForm().to_theirs(weight, (12, 5))
    for gate in range(4):
        assert torch.equal(filled[3 * gate : 3 * gate + 2, :3], weight[2 * gate : 2 * gate + 2])
        assert not filled[3 * gate + 2].any()
    assert not filled[:, 3:].any()
    bias = ZeroFilledGatesForm().to_theirs(torch.arange(1.0, 9.0), (12,))
    assert bias.tolist() == [1, 2, 0, 3, 4, 0, 5, 6, 0, 7, 8, 0]


def test_sines_come_before_cosines() -> None:
    """The rows of NeMo's positions, a sine and a cosine in turn, in the order of theirs; and back."""
    ours = torch.tensor([[1, -1, 2, -2, 3, -3]])
    theirs = torch.tensor([[1, 2, 3, -1, -2, -3]])
    columns, rows = HalvedForm(1), HalvedForm(0)
    assert torch.equal(columns.to_theirs(ours, (1, 6)), theirs)
    assert torch.equal(columns.to_ours(theirs, (1, 6)), ours)
    assert torch.equal(rows.to_theirs(ours[0], (6,)), theirs[0])
    assert torch.equal(rows.to_ours(theirs.T, (6, 1)), ours.T)
