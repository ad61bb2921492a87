"""Checks of values that users give, one copy of each; a refusal names the value, what it was and what is accepted."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

MAX_CHARACTERS_SHOWN = 200  # of a value in a message
MAX_CHARACTERS_QUOTED = 2000  # of a parser's own message


def is_integer(value: Any) -> bool:
    """A whole number of any integer type, NumPy's among them; `True` and `False` are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """A finite real number of any type that a float can hold, NumPy's among them; `True` and `False` are not."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # 10**400
        return False


def shown(value: Any) -> str:
    """A value in the words of a message, which is short whatever the value is."""
    try:
        text = repr(value)
    except Exception as error:  # an integer of 5,000 digits, a list of them
        text = f"<{type(value).__name__}: {error}>"
    return text if len(text) <= MAX_CHARACTERS_SHOWN else f"{text[:MAX_CHARACTERS_SHOWN]}..."


def require(is_accepted: bool, name: str, value: Any, expected: str) -> None:
    """
    Raise for a value that is not accepted.

    Args:
        is_accepted: Nothing happens if it is true.
        name: What the value is called where the user wrote it.
        value: What was found.
        expected: What is accepted, as it follows the word "expected".

    Raises:
        ValueError: with all of these.
    """
    if not is_accepted:
        raise ValueError(f"{name}={shown(value)} is not supported; expected {expected}.")


def require_count(name: str, value: Any, minimum: int = 1) -> None:
    """Raise a `ValueError` for anything but an integer of `minimum` or more."""
    require(is_integer(value) and value >= minimum, name, value, f"an integer of {minimum} or more")


def require_choice(name: str, value: Any, accepted: Collection[Any]) -> None:
    """Raise a `ValueError` for a value that is not one of those accepted, which the message lists."""
    try:
        is_accepted = value in accepted
    except Exception:  # what has no hash, or answers a comparison with an array
        is_accepted = False
    require(is_accepted, name, value, f"one of {tuple(accepted)}")


@contextmanager
def reading(name: str, expected: str) -> Iterator[None]:
    """
    Turn whatever a block throws over data that a user gave into an error that names the data.

    Parsers of other libraries throw whatever comes: `KeyError`, `AssertionError`, `RecursionError`, an `Exception`
    of their own. A `ValueError` that names the data already is passed on, and so is what is no fault of the data: an
    error of the system with a number (a full disk, a missing file), a missing package, an interrupt. One that says
    what is accepted only gets the name. Memory that runs out stays a `MemoryError` and gets the name.

    Args:
        name: What is read: the archive, the member, the key.
        expected: What is accepted, as it follows the word "expected".

    Raises:
        ValueError: with the name, what was thrown and what is accepted.
    """
    try:
        yield
    except BaseException as error:
        # Libraries in Rust throw a `PanicException`, which is not an `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        is_of_the_system = isinstance(error, OSError) and error.errno is not None
        # An error of an encoding quotes what it met, and that may be all of the name.
        is_named = isinstance(error, ValueError) and not isinstance(error, UnicodeError) and name in str(error)
        if is_of_the_system or is_named or isinstance(error, ImportError):
            raise
        if isinstance(error, MemoryError):
            raise MemoryError(f"{name}: the memory does not suffice. {error}".rstrip()) from error
        if isinstance(error, ValueError) and "; expected " in str(error):
            raise ValueError(f"{name}: {error}") from error
        found = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        found = found[:MAX_CHARACTERS_QUOTED]
        raise ValueError(f"{name} cannot be read: {found.rstrip('.')}; expected {expected}.") from error
