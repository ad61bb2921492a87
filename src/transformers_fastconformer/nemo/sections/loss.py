"""Losses of transducers and their options, TDT's durations among them, and the reductions of all losses."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import (
    Check,
    Drop,
    Map,
    NotAcceptedError,
    Read,
    Row,
    Table,
    Values,
    integers,
    number,
    one_of,
    section,
)
from ...configuration_training import LOSS_REDUCTIONS, TransducerLossFields
from .common import NemoReader

RNNT_LOSSES = (
    "default",
    "warprnnt",
    "warprnnt_numba",
    "pytorch",
    "graph_rnnt",
    "graph_w_transducer",
    "tdt",
    "tdt_pytorch",
)
# NeMo 3.0 resolves it first, and reads the options of the loss that it stands for.
DEFAULT_LOSS = "warprnnt_numba"


def _clamp(value: Any, values: Values) -> float:
    return max(number(value, values), 0.0)  # NeMo writes -1 for none


_GRADIENT: dict[str, Row] = {
    "fastemit_lambda": Map("fastemit_lambda", 0.0, number),
    "clamp": Map("transducer_gradient_clamp", -1.0, _clamp),
}
TDT_LOSS: Table = {
    **_GRADIENT,
    "durations": Read("read_durations", check=integers),
    "sigma": Map("sigma", 0.0, number),
    "omega": Map("omega", 0.0, number),
}
# The options that each loss of NeMo has; others have none.
LOSS_OPTIONS: dict[str, Table] = {
    "warprnnt_numba": _GRADIENT,
    "tdt": TDT_LOSS,
    "tdt_pytorch": {"durations": Drop("those of the decoding are read"), "sigma": Map("sigma", 0.0, number)},
}

OPTIONS_OF_ANY = {key for table in LOSS_OPTIONS.values() for key in table}

LOSS: Table = {
    "loss_name": Check("which of the losses trains; TDT is told by its durations", one_of(*RNNT_LOSSES)),
    **{
        f"{name}_kwargs": Read("LOSS_OPTIONS")
        for name in (*RNNT_LOSSES, "multiblank_rnnt", "multiblank_rnnt_pytorch")
        if name not in LOSS_OPTIONS
    },
    **{f"{name}_kwargs": Read("LOSS_OPTIONS", check=section) for name in LOSS_OPTIONS},
}

# NeMo's names of our reductions.
REDUCTIONS = dict(zip(("mean_batch", "mean", "mean_volume", "sum"), LOSS_REDUCTIONS, strict=True))


def map_loss(loss_section: Any, decoding: Values, joint: Values, reader: NemoReader) -> dict[str, Any]:
    """Arguments of the loss of a transducer: its weights, and the durations of TDT."""
    _, loss = reader.apply(loss_section or {}, LOSS, "loss")
    name = loss["loss_name"] or "default"
    name = DEFAULT_LOSS if name == "default" else name
    table, options = LOSS_OPTIONS.get(name, {}), loss[f"{name}_kwargs"] or {}
    # What is an option only of another loss NeMo does not use, and says so.
    unused = {key for key in options if key not in table and (key in OPTIONS_OF_ANY or not table)}
    reader.dropped |= {f"loss.{name}_kwargs.{key}": "not read by this loss of NeMo" for key in map(str, unused)}
    used = {key: value for key, value in options.items() if key not in unused}
    arguments, values = reader.apply(used, table, f"loss.{name}_kwargs")
    durations = read_durations(loss, values, decoding, joint, reader)
    if not durations:
        return {key: value for key, value in arguments.items() if key not in ("sigma", "omega")}
    return {"sigma": 0.0, "omega": 0.0, **arguments, "durations": durations}


def read_durations(loss: Values, tdt_loss: Values, decoding: Values, joint: Values, reader: NemoReader) -> list[int]:
    """TDT's durations. Those of the loss override those of the decoding, which may be stale (NeMo 3.0)."""
    if loss["loss_name"] == "tdt":
        name, durations = "loss.tdt_kwargs.durations", tdt_loss["durations"]
        if not durations:
            raise reader.refuse(name, durations, "a list of durations in frames")
    else:
        name, durations = "decoding.durations", decoding.get("durations")
    durations = list(durations or [])
    if len(durations) != (joint["num_extra_outputs"] or 0):
        raise reader.refuse(
            "joint.num_extra_outputs", joint["num_extra_outputs"], f"the number of durations, {len(durations)}"
        )
    return durations


def convert_reduction(value: Any, values: Values) -> str:
    """Our reduction of a loss. Without one NeMo cannot train: it is then the usual one here."""
    one_of("none", None, *REDUCTIONS)(value, values)
    return REDUCTIONS.get(value, REDUCTIONS["mean_batch"])


def read_reduction(key: str, value: Any, reader: NemoReader) -> str:
    """A reduction at the top level, `ctc_reduction` or `rnnt_reduction`; `mean_batch` where it is absent."""
    try:
        return convert_reduction(value, {})
    except NotAcceptedError as error:
        raise reader.refuse(key, value, str(error)) from None


def write_reduction(reduction: str) -> str:
    """NeMo's name of a reduction of ours."""
    return next(theirs for theirs, ours in REDUCTIONS.items() if ours == reduction)


def write_gradient_options(config: TransducerLossFields) -> dict[str, float]:
    """The options that losses of RNN-T and TDT share."""
    return {"fastemit_lambda": config.fastemit_lambda, "clamp": config.transducer_gradient_clamp or -1.0}
