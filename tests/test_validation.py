"""Checks of values: every integer and number type is one, booleans are not, and messages name all that is needed."""

from __future__ import annotations

import errno
import math
from fractions import Fraction

import numpy as np
import pytest

from transformers_fastconformer.validation import (
    is_integer,
    is_number,
    reading,
    require,
    require_choice,
    require_count,
    shown,
)


@pytest.mark.parametrize("value", [0, -3, np.int64(5), np.uint8(1)])
def test_integers(value):
    assert is_integer(value)
    assert is_number(value)


@pytest.mark.parametrize("value", [True, np.bool_(True), 1.0, "1", None, [1]])
def test_not_integers(value):
    assert not is_integer(value)


@pytest.mark.parametrize("value", [0.5, np.float32(2), Fraction(1, 2)])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "1", None, 1j, 10**400, Fraction(10**400)])
def test_not_numbers(value):
    assert not is_number(value)


def test_refusals_name_option_value_and_what_is_accepted():
    require(True, "size", 1, "anything")
    with pytest.raises(ValueError, match="size='x' is not supported; expected a number"):
        require(False, "size", "x", "a number")
    require_count("size", 0, minimum=0)
    for value in (0, -1, 1.0, True, None):
        with pytest.raises(ValueError, match=f"size={value} is not supported; expected an integer of 1 or more"):
            require_count("size", value)
    require_choice("kind", "a", ("a", "b"))
    for value in ("c", ["a"], None):
        with pytest.raises(ValueError, match=r"kind=.* is not supported; expected one of \('a', 'b'\)"):
            require_choice("kind", value, {"a": 1, "b": 2})


@pytest.mark.parametrize(
    "thrown", [KeyError("x"), AssertionError(), RecursionError("too deep"), Exception("odd"), OSError("no number")]
)
def test_reading_names_what_a_parser_throws(thrown):
    with (
        pytest.raises(ValueError, match=r"m\.nemo: member 'a' cannot be read: .*; expected YAML\.") as caught,
        reading("m.nemo: member 'a'", "YAML"),
    ):
        raise thrown
    assert type(thrown).__name__ in str(caught.value)
    assert caught.value.__cause__ is thrown


@pytest.mark.parametrize(
    "thrown",
    [ValueError("m.nemo: key x=1 is not supported"), OSError(errno.ENOSPC, "No space left"), ImportError("yaml")],
)
def test_reading_passes_on_what_is_named_or_of_the_machine(thrown):
    with pytest.raises(type(thrown)) as caught, reading("m.nemo", "YAML"):
        raise thrown
    assert caught.value is thrown


def test_reading_names_the_data_when_memory_runs_out():
    with pytest.raises(MemoryError, match=r"m\.nemo: the memory does not suffice"), reading("m.nemo", "YAML"):
        raise MemoryError


def test_reading_puts_the_name_before_an_error_that_says_what_is_accepted():
    with (
        pytest.raises(ValueError, match=r"^m\.nemo: size=1 is not supported; expected 2\.$"),
        reading("m.nemo", "YAML"),
    ):
        require(False, "size", 1, "2")


def test_reading_names_panics_and_lets_interrupts_pass():
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(ValueError, match="PanicException: out of bounds; expected a map"), reading("m", "a map"):
        raise panic("out of bounds")
    with pytest.raises(KeyboardInterrupt), reading("m", "a map"):
        raise KeyboardInterrupt


def test_values_are_shown_in_short():
    assert shown([1, "x"]) == "[1, 'x']"
    assert shown(10**5000).startswith("<int: ")  # Python refuses to write it out
    assert len(shown("x" * 10**6)) < 300
