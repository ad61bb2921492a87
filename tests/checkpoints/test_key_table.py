"""Tables of keys: every kind of row, what is refused, and the way back."""

from __future__ import annotations

import math
from typing import Any

import pytest

from transformers_fastconformer.checkpoints.key_table import (
    REQUIRED,
    Check,
    Drop,
    Map,
    NotAcceptedError,
    Pin,
    Read,
    Refuse,
    SectionReader,
    Table,
    boolean,
    check_pins,
    integer,
    number,
    number_or_zero,
    one_of,
    optional_number,
    twice,
    with_defaults,
    write_section,
)

TABLE: Table = {
    "width": Map("hidden_size", REQUIRED, integer),
    "depth": Map("num_layers", 2),
    "rate": Map(("dropout", "other_dropout"), 0.5, twice(number)),
    "window": Read("read_window", 7),
    "kind": Pin(("a", None)),
    "layout": Check("only a layout", one_of("rows", "columns")),
    "seed": Drop("only of training"),
    "kernel": Refuse("a kernel"),
}


def refuse(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name}={value!r}; expected {expected}.")


def apply(section: Any, table: Table = TABLE) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    reader = SectionReader(refuse, ignored_keys={"comment"})
    options, values = reader.apply(section, table, "model")
    return options, values, reader.dropped


def test_defaults_fill_in():
    options, values, dropped = apply({"width": 8})
    assert options == {"hidden_size": 8, "num_layers": 2, "dropout": 0.5, "other_dropout": 0.5}
    assert (values["window"], values["kind"]) == (7, None)
    assert dropped == {}


def test_every_kind_of_row():
    section = {"width": 8, "depth": 3, "rate": 0, "window": 9, "kind": "a", "layout": "rows", "seed": 1}
    options, values, dropped = apply({**section, "comment": "mine"})
    assert options == {"hidden_size": 8, "num_layers": 3, "dropout": 0, "other_dropout": 0}
    assert values["window"] == 9
    assert dropped == {"model.layout": "only a layout", "model.seed": "only of training"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ([], r"model=\[\]; expected a section"),
        ({}, r"model\.width=\(absent\); expected a value"),
        ({"width": "8"}, r"model\.width='8'; expected an integer"),
        ({"width": 8, "rate": [1]}, r"model\.rate=\[1\]; expected a number"),
        ({"width": 8, "kind": "b"}, r"model\.kind='b'; expected 'a' or None"),
        ({"width": 8, "layout": "odd"}, r"model\.layout='odd'; expected 'rows' or 'columns'"),
        ({"width": 8, "colour": 1}, r"model\.colour=1; expected one of \['depth', 'kernel', "),
        ({"width": 8, "kernel": {"size": 3}}, r"model\.kernel={'size': 3}; expected null or false: this is a kernel"),
    ],
)
def test_refusals_name_the_key_and_what_is_accepted(section, message):
    with pytest.raises(ValueError, match=message):
        apply(section)


@pytest.mark.parametrize("value", [None, False, 0, {}, "", []])
def test_what_is_switched_off_may_be_there(value):
    assert apply({"width": 8, "kernel": value})[2] == {"model.kernel": "switched off"}


def test_a_converter_that_stumbles_is_a_refusal():
    table: Table = {"contexts": Map("contexts", None, lambda value, values: value[0])}
    for value in (5, [], {"a": 1}):
        with pytest.raises(ValueError, match="expected a value of the right kind"):
            apply({"contexts": value}, table)


@pytest.mark.parametrize(
    ("convert", "accepted", "refused"),
    [
        (integer, [0, -3], [True, 1.0, "1", None]),
        (boolean, [True, False], [0, 1, "true", None]),
        (number, [1, 0.5, "1e-5"], [True, "x", None, math.inf, "nan", [1]]),
        (optional_number, [None, 2], ["x", False]),
        (number_or_zero, [None, 2], ["x", False]),
        (one_of("a", 1), ["a", 1], ["b", True, None]),
    ],
)
def test_converters(convert, accepted, refused):
    for value in accepted:
        convert(value, {})
    for value in refused:
        with pytest.raises(NotAcceptedError):
            convert(value, {})
    assert number("1e-5", {}) == 1e-5
    assert (optional_number(None, {}), number_or_zero(None, {})) == (None, 0.0)


def test_other_defaults():
    table = with_defaults(TABLE, {"depth": 5, "window": 1})
    options, values, _ = apply({"width": 8}, table)
    assert (options["num_layers"], values["window"]) == (5, 1)
    assert TABLE["depth"] == Map("num_layers", 2)


def test_rows_that_leave_a_value_as_it_is_are_written_back():
    options = {"num_layers": 3, "hidden_size": 8}
    assert write_section(TABLE, options.__getitem__) == {"depth": 3}


def test_pins_of_ours():
    pins = {"mode": Pin(("plain",)), "scale": Pin((1.0, None))}
    check_pins(pins, {"mode": "plain", "scale": None}.__getitem__, refuse)
    with pytest.raises(ValueError, match=r"scale=2\.0; expected 1\.0 or None"):
        check_pins(pins, {"mode": "plain", "scale": 2.0}.__getitem__, refuse)
