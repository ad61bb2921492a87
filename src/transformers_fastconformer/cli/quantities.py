"""Sizes and ages in words."""

from __future__ import annotations

BYTE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
SECONDS_OF_UNIT = (("day", 86400), ("hour", 3600), ("minute", 60))


def describe_bytes(number: int) -> str:
    """A number of bytes in the largest unit that is not larger than it."""
    for unit, size in BYTE_UNITS:
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"


def describe_age(seconds: float) -> str:
    """A time that has passed, in whole days, hours or minutes."""
    for unit, unit_seconds in SECONDS_OF_UNIT:
        count = int(seconds // unit_seconds)
        if count:
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"
