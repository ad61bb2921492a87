"""Tables of names, both ways, with plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from transformers_fastconformer.checkpoints.name_table import (
    POINTWISE,
    SAME,
    Check,
    Drop,
    DropOtherParts,
    Map,
    NameTable,
    Refuse,
    Target,
    check_fit,
    enumerate_names,
    pointwise,
)

TABLE = NameTable(
    [
        Check("front.window", "computed", by="check_window"),
        Drop("front.{any}", "not of the model"),
        Drop("layers.{later}.extra.{p}", "only of the first layer"),
        Refuse("{any}.adapter.{any}", "adapters, which change the numbers"),
        *pointwise("layers.{n}.conv", "blocks.{n}.conv"),
        Map("layers.{n}.parts.{i}.{p}", "blocks.{n}.part_{i}.{p}"),
        Map("layers.{n}.{rest}", "blocks.{n}.{rest}"),
        Map("out.weight", "head.weight"),
    ]
)
THEIRS = {
    "front.window": (4,),
    "front.a.b": (1,),
    "layers.0.conv.weight": (3, 2, 1),
    "layers.0.conv.bias": (3,),
    "layers.0.parts.7.weight": (5,),
    "layers.0.norm.inner.weight": (6,),
    "out.weight": (2, 2),
}
OURS = {
    "blocks.0.conv.weight": (3, 2),
    "blocks.0.conv.bias": (3,),
    "blocks.0.part_7.weight": (5,),
    "blocks.0.norm.inner.weight": (6,),
    "head.weight": (2, 2),
}


def test_names_go_there_and_back():
    for ours in OURS:
        theirs, row = TABLE.to_theirs(ours)
        assert theirs in THEIRS
        assert TABLE.to_ours(theirs) == (ours, row)
    assert TABLE.to_ours("layers.12.conv.weight") == ("blocks.12.conv.weight", TABLE.rows[4])


def test_the_first_row_counts():
    assert isinstance(TABLE.find("front.window"), Check)
    assert isinstance(TABLE.find("front.window.more"), Drop)
    assert TABLE.find("layers.3.extra.weight").reason == "only of the first layer"
    assert TABLE.to_ours("layers.0.extra.weight")[0] == "blocks.0.extra.weight"


@pytest.mark.parametrize("name", ["", "front", "layers.x.conv.weight", "layers.0.", "out.weight.", "outXweight"])
def test_unknown_names(name):
    assert TABLE.find(name) is None
    assert TABLE.to_ours(name) is None


def test_rows_that_map_nothing_have_no_name_of_ours():
    for name in ("front.window", "front.a", "layers.0.adapter.x"):
        assert TABLE.find(name) is not None
        assert TABLE.to_ours(name) is None
    assert TABLE.to_theirs("tail.weight") is None


def test_other_parts():
    row = DropOtherParts("encoder|front", "of another part")
    assert row.their_pattern.fullmatch("decoder.a.b")
    assert row.their_pattern.fullmatch("encoder_norm.a")
    assert not row.their_pattern.fullmatch("encoder.a")
    assert not row.their_pattern.fullmatch("front")


def test_values_go_there_and_back():
    tensor = np.arange(6.0).reshape(3, 2)
    theirs = POINTWISE.to_theirs(tensor, POINTWISE.their_shape((3, 2)))
    assert theirs.shape == (3, 2, 1)
    assert (POINTWISE.to_ours(theirs, (3, 2)) == tensor).all()
    assert SAME.to_ours(tensor, (3, 2)) is tensor
    assert SAME.to_theirs(tensor, (3, 2)) is tensor
    assert POINTWISE.can_read((3, 2, 1), (3, 2))
    assert not POINTWISE.can_read((3, 2), (3, 2))
    assert POINTWISE.can_write((3, 2), (3, 2, 1))
    assert not SAME.can_write((3, 2), (3, 2, 1))


def test_reading_has_a_place_for_everything():
    plan = TABLE.plan_reading(THEIRS, OURS, "x.ckpt")
    assert plan.left_out == {"front.window": "computed", "front.a.b": "not of the model"}
    assert {target.name: target.shape for target in plan.targets.values()} == OURS
    assert plan.targets["layers.0.conv.weight"] == Target("blocks.0.conv.weight", (3, 2), POINTWISE)


def test_reading_names_what_does_not_fit():
    theirs = {**THEIRS, "layers.0.conv.weight": (3, 2), "layers.1.norm.weight": (6,), "tail.weight": (1,)}
    del theirs["layers.0.parts.7.weight"]
    with pytest.raises(ValueError, match=r"x\.ckpt: the weights do not fit their configuration") as raised:
        TABLE.plan_reading(theirs, OURS, "x.ckpt")
    assert str(raised.value).endswith(
        "tensors of the wrong shape: layers.0.conv.weight is (3, 2), expected (3, 2, 1); missing tensors: "
        "layers.0.parts.7.weight; tensors that are not supported: layers.1.norm.weight, tail.weight."
    )


def test_what_is_refused_is_named():
    theirs = {**THEIRS, "layers.0.adapter.a": (1,), "layers.1.adapter.b": (1,)}
    message = "x: tensors layers.0.adapter.a, layers.1.adapter.b are not supported; they are adapters, which change"
    with pytest.raises(ValueError, match=message):
        TABLE.plan_reading(theirs, OURS, "x")


def test_two_names_for_one_tensor_are_refused():
    table = NameTable([Map("a.{p}", "x.{p}"), Map("b.{p}", "x.{p}")])
    with pytest.raises(ValueError, match=r"b\.w is x\.w a second time"):
        table.plan_reading({"a.w": (1,), "b.w": (1,)}, {"x.w": (1,)}, "x")


def test_writing_has_a_place_for_everything():
    ours = {**OURS, "tail.weight": (1,), "head.weight": (2, 3)}
    theirs = {name: shape for name, shape in THEIRS.items() if not name.startswith("front.")}
    plan = TABLE.plan_writing(ours, {**theirs, "layers.0.late": (1,)})
    assert plan.left_out == ["tail.weight"]
    assert plan.missing == ["layers.0.late"]
    assert plan.wrong == ["head.weight is (2, 3), expected (2, 2) as out.weight"]
    assert plan.targets["blocks.0.conv.weight"] == Target("layers.0.conv.weight", (3, 2, 1), POINTWISE)


def test_long_lists_are_cut():
    names = [str(index) for index in range(11)]
    assert enumerate_names(names) == "0, 1, 2, 3, 4, 5, 6, 7 and 3 more"
    assert enumerate_names(names[:8]) == "0, 1, 2, 3, 4, 5, 6, 7"
    check_fit("x", [], [], [])
    with pytest.raises(ValueError, match="x: the weights do not fit their configuration; missing tensors: 0"):
        check_fit("x", [], [], names[:1])
