"""
Keys of a configuration in another form: plain tables with a rule for each key.

A key is mapped (`Map`) to options of ours, read together with other keys (`Read`), pinned (`Pin`) to the values under
which our numbers are those of the other form, checked and not mapped (`Check`), dropped for a reason (`Drop`), or
refused by name (`Refuse`). A key that stands in no table, and a value that is not accepted, is a `ValueError` that
names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..validation import is_integer, is_number

Values = dict[str, Any]
Convert = Callable[[Any, Values], Any]
Refusal = Callable[[str, Any, str], ValueError]


class NotAcceptedError(Exception):
    """Error of a converter, which says what would be accepted."""


class _Required:
    def __repr__(self) -> str:
        return "(absent)"


REQUIRED = _Required()


def as_is(value: Any, values: Values) -> Any:
    """The value itself."""
    return value


@dataclass(frozen=True)
class Map:
    """
    A key that becomes options of ours.

    Args:
        targets: Names of the options; several names are several options. The converter gives a value, or for several
            names a tuple of them.
        default: Value that the other form takes for an absent key.
        convert: Function of the key's value and of all values of the section with defaults; returns the value of the
            option. If it leaves the value as it is, the row is read in both directions.
    """

    targets: str | tuple[str, ...]
    default: Any = REQUIRED
    convert: Convert = as_is


@dataclass(frozen=True)
class Read:
    """
    A key that is read together with others, by the function or table named.

    Args:
        by: Name of the function or table.
        default: Value that the other form takes for an absent key.
        check: A converter that refuses values of another kind; null is never asked. Its result is not used.
    """

    by: str
    default: Any = None
    check: Convert = as_is


@dataclass(frozen=True)
class Pin:
    """A key that must have one of a few values, because our numbers are right only for these."""

    accepted: tuple[Any, ...]


@dataclass(frozen=True)
class Check:
    """
    A key that is checked if it is present, and not mapped.

    Args:
        reason: Reason why an accepted value has no influence.
        check: A converter that may refuse the value; its result is not used.
    """

    reason: str
    check: Convert


@dataclass(frozen=True)
class Drop:
    """A key without influence on inference, with the reason."""

    reason: str


@dataclass(frozen=True)
class Refuse:
    """
    A key of something that is known and not supported.

    It may be present as long as it is switched off: null, false, 0 or empty.

    Args:
        what: Name of what it switches on, as it follows "this is" in messages.
    """

    what: str


Row = Map | Read | Pin | Check | Drop | Refuse
Table = Mapping[str, Row]


# Converters


def integer(value: Any, values: Values) -> int:
    if not is_integer(value):
        raise NotAcceptedError("an integer")
    return value


def text(value: Any, values: Values) -> str:
    if not isinstance(value, str):
        raise NotAcceptedError("a text")
    return value


def sequence(value: Any, values: Values) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise NotAcceptedError("a list")
    return list(value)


def texts(value: Any, values: Values) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise NotAcceptedError("a list of texts")
    return list(value)


def integers(value: Any, values: Values) -> list[int]:
    if not isinstance(value, list | tuple) or not all(is_integer(entry) for entry in value):
        raise NotAcceptedError("a list of integers")
    return list(value)


def section(value: Any, values: Values) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise NotAcceptedError("a section")
    return value


def boolean(value: Any, values: Values) -> bool:
    if not isinstance(value, bool):
        raise NotAcceptedError("true or false")
    return value


def number(value: Any, values: Values) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 1e-5, without a point, as text
        try:
            value = float(value)
        except ValueError:
            raise NotAcceptedError("a number") from None
    if not is_number(value):
        raise NotAcceptedError("a number")
    return value


def optional_number(value: Any, values: Values) -> float | None:
    return None if value is None else number(value, values)


def number_or_zero(value: Any, values: Values) -> float:
    return 0.0 if value is None else number(value, values)


def one_of(*accepted: Any) -> Convert:
    """Make a converter that lets only these values pass."""

    def convert(value: Any, values: Values) -> Any:
        if value not in accepted or isinstance(value, bool):
            raise NotAcceptedError(describe_choices(accepted))
        return value

    return convert


def twice(convert: Convert) -> Convert:
    """Make a converter of one value for two options."""

    def convert_twice(value: Any, values: Values) -> tuple[Any, Any]:
        return (convert(value, values),) * 2

    return convert_twice


def describe_choices(accepted: Collection[Any]) -> str:
    """Accepted values in the words of a message."""
    return " or ".join(repr(choice) for choice in accepted)


# Reading and writing


class SectionReader:
    """
    Applies tables to the sections of one configuration.

    Args:
        refuse: Makes the error for a key, its value and what is accepted.
        ignored_keys: Keys that any section may have and that are not read.

    Attributes:
        dropped: Keys found so far that have no influence, with the reasons.
    """

    def __init__(self, refuse: Refusal, ignored_keys: Collection[str] = ()) -> None:
        self.refuse = refuse
        self.ignored_keys = ignored_keys
        self.dropped: dict[str, str] = {}

    def is_absent(self, value: Any) -> bool:
        """Tell whether a value stands for a required key that is missing."""
        return value is REQUIRED

    def apply(self, section: Any, table: Table, name: str) -> tuple[Values, Values]:
        """
        Read our options from a section; also returns the section's values with the defaults for absent keys.

        Args:
            section: The section.
            table: Its rows.
            name: Its name in messages; empty for the whole configuration.

        Raises:
            ValueError: for a section that is not a mapping, an unknown key, and a value that is not accepted.
        """
        prefix = f"{name}." if name else ""
        if not isinstance(section, Mapping):
            raise self.refuse(name, section, "a section")
        for key, value in section.items():
            if key not in table and key not in self.ignored_keys:
                raise self.refuse(f"{prefix}{key}", value, f"one of {sorted(table)}")
        values: Values = {}
        for key, row in table.items():
            default = row.default if isinstance(row, Map | Read) else None
            values[key] = section.get(key, default)
            if isinstance(row, Map | Read) and self.is_absent(values[key]):
                raise self.refuse(f"{prefix}{key}", values[key], "a value")
        for key, row in table.items():
            if isinstance(row, Read) and section.get(key) is not None:
                self._convert(f"{prefix}{key}", values[key], row.check, values)
        options: Values = {}
        for key, row in table.items():
            if isinstance(row, Map):
                converted = self._convert(f"{prefix}{key}", values[key], row.convert, values)
                if isinstance(row.targets, str):
                    options[row.targets] = converted
                else:
                    options.update(zip(row.targets, converted, strict=True))
            elif key in section:
                self._judge(f"{prefix}{key}", values[key], row, values)
        return options, values

    def _judge(self, name: str, value: Any, row: Row, values: Values) -> None:
        """Refuse a value by a row that maps nothing, or note that it has no influence."""
        if isinstance(row, Pin) and value not in row.accepted:
            raise self.refuse(name, value, describe_choices(row.accepted))
        if isinstance(row, Refuse) and value:
            raise self.refuse(name, value, f"null or false: this is {row.what}")
        if isinstance(row, Check):
            self._convert(name, value, row.check, values)
        if isinstance(row, Check | Drop):
            self.dropped[name] = row.reason
        if isinstance(row, Refuse):
            self.dropped[name] = "switched off"

    def _convert(self, name: str, value: Any, convert: Convert, values: Values) -> Any:
        try:
            return convert(value, values)
        except NotAcceptedError as error:
            raise self.refuse(name, value, str(error)) from None
        except Exception as error:  # whatever a value of another kind brings a converter to
            raise self.refuse(name, value, "a value of the right kind") from error


def with_defaults(table: Table, defaults: Mapping[str, Any]) -> dict[str, Row]:
    """Copy a table, with other defaults for some keys."""
    changed = dict(table)
    for key, default in defaults.items():
        row = table[key]
        assert isinstance(row, Map | Read), key
        changed[key] = replace(row, default=default)
    return changed


def write_section(table: Table, read_option: Callable[[str], Any]) -> Values:
    """Write our options as a section, by the rows of a table that map a value as it is."""
    return {
        key: read_option(row.targets)
        for key, row in table.items()
        if isinstance(row, Map) and isinstance(row.targets, str) and row.convert is as_is
    }


def check_pins(pins: Mapping[str, Pin], read_option: Callable[[str], Any], refuse: Refusal) -> None:
    """Refuse our options without a key in the other form, unless they have the value that is fixed there."""
    for name, pin in pins.items():
        value = read_option(name)
        if value not in pin.accepted:
            raise refuse(name, value, describe_choices(pin.accepted))
