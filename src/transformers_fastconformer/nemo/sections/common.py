"""Words and checks that the tables of all sections share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checkpoints.key_table import REQUIRED, Check, NotAcceptedError, SectionReader, Table, Values, describe_choices
from ...validation import shown
from ..config_text import is_unresolved

TRAINING = "training only"
SPEED = "speed or memory only"
REPORTING = "metrics and logs only"
SHAPE = "a width that the weights are checked against"


def class_of(target: Any) -> str:
    """The class that a `target` or `_target_` names, without the modules before it."""
    return str(target).rsplit(".", 1)[-1]


def check_class(*class_names: str) -> Check:
    """The row of a `_target_` that must be one of these classes."""

    def check(value: Any, values: Values) -> None:
        if class_of(value) not in class_names:
            raise NotAcceptedError(describe_choices(class_names))

    return Check("the class that the tables here are of", check)


class NemoReader(SectionReader):
    """
    Applies the tables to one archive's configuration.

    Args:
        source: The archive, for messages.
    """

    def __init__(self, source: str) -> None:
        super().__init__(self._refuse)
        self.source = source

    def _refuse(self, name: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{name}={shown(value)} is not supported; expected {expected} (in {self.source}).")

    def is_absent(self, value: Any) -> bool:
        return value is REQUIRED or is_unresolved(value)

    def apply(self, section: Any, table: Table, name: str) -> tuple[Values, Values]:
        return super().apply(self.without_class_nesting(section, name), table, name)

    def without_class_nesting(self, section: Any, name: str) -> Any:
        """Sections of NeMo before 1.0, `{cls: ..., params: {...}}`, in the form of today."""
        if not isinstance(section, Mapping) or "cls" not in section:
            return section
        params = section.get("params") or {}
        if not isinstance(params, Mapping):
            raise self.refuse(f"{name}.params", params, "a section")
        rest = {key: value for key, value in section.items() if key not in ("cls", "params")}
        return {"_target_": section["cls"], **rest, **params}
