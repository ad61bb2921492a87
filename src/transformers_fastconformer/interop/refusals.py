"""Errors for what one of the two forms cannot express."""

from __future__ import annotations

from typing import Any

from ..checkpoints.key_table import Refusal
from ..validation import shown


def refuse_writing(class_name: str) -> Refusal:
    """Errors for options of ours that a class of theirs cannot express."""

    def refuse(name: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{name}={shown(value)} is not supported by {class_name}; expected {expected}.")

    return refuse


def refuse_reading(source: str) -> Refusal:
    """Errors for values of theirs that this package cannot express, found in the file `source`."""

    def refuse(name: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{source}: {name}={shown(value)} is not supported by this package; expected {expected}.")

    return refuse
