"""CTC losses between the blocks: the section `interctc`, which NeMo's `InterCTCMixin` reads."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import REQUIRED, Map, NotAcceptedError, Table, Values, integers, number, sequence
from .common import NemoReader


def _layers(value: Any, values: Values) -> list[int] | None:
    return integers(value, values) or None


def _weights(value: Any, values: Values) -> list[float] | None:
    weights = [number(weight, values) for weight in sequence(value, values)]
    if len(weights) != len(sequence(values["apply_at_layers"], values)):
        raise NotAcceptedError("as many as apply_at_layers")
    return weights or None


INTERCTC: Table = {
    "apply_at_layers": Map("intermediate_ctc_layers", REQUIRED, _layers),
    "loss_weights": Map("intermediate_ctc_weights", REQUIRED, _weights),
}


def map_interctc(section: Any, has_ctc_head: bool, reader: NemoReader) -> dict[str, Any]:
    """
    Arguments for these losses.

    Args:
        section: The section, or None.
        has_ctc_head: The model has the head that computes them; NeMo's other classes do not read the section.
        reader: Of the archive.
    """
    if section is None:
        return {}
    if not has_ctc_head:
        reader.dropped["interctc"] = "NeMo reads it only in models with a CTC head"
        return {}
    arguments, _ = reader.apply(section, INTERCTC, "interctc")
    return arguments
