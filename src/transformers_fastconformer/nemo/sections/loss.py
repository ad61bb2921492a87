"""Losses: TDT's durations and weights are read, the rest is of training."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import (
    Check,
    Drop,
    Map,
    NotAcceptedError,
    Read,
    Table,
    Values,
    integers,
    number,
    one_of,
    section,
)
from .common import TRAINING, NemoReader

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

LOSS: Table = {
    "loss_name": Check("which of the losses trains; TDT is told by its durations", one_of(*RNNT_LOSSES)),
    **{
        f"{name}_kwargs": Drop(TRAINING)
        for name in (*RNNT_LOSSES, "multiblank_rnnt", "multiblank_rnnt_pytorch")
        if name != "tdt"
    },
    "tdt_kwargs": Read("TDT_LOSS", check=section),
}

TDT_LOSS: Table = {
    "durations": Read("read_durations", check=integers),
    "sigma": Map("sigma", 0.0, number),
    "omega": Map("omega", 0.0, number),
    "fastemit_lambda": Drop(TRAINING),
    "clamp": Drop(TRAINING),
}


def map_loss(loss_section: Any, decoding: Values, joint: Values, reader: NemoReader) -> dict[str, Any]:
    """Arguments of a TDT model: its durations and the weights of its loss; none for RNN-T."""
    _, loss = reader.apply(loss_section or {}, LOSS, "loss")
    arguments, tdt_loss = reader.apply(loss["tdt_kwargs"] or {}, TDT_LOSS, "loss.tdt_kwargs")
    durations = read_durations(loss, tdt_loss, decoding, joint, reader)
    return {**arguments, "durations": durations} if durations else {}


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


def convert_ctc_reduction(value: Any, values: Values) -> str:
    """Our reduction of the CTC loss, which is only of training; the means differ in what each clip weighs."""
    one_of("none", "mean", "sum", "mean_batch", "mean_volume")(value, values)
    return "sum" if value == "sum" else "mean"


def read_ctc_reduction(value: Any, reader: NemoReader) -> str:
    """The `ctc_reduction` of a model that has only a CTC head; NeMo takes `mean_batch` where it is absent."""
    try:
        return convert_ctc_reduction("mean_batch" if value is None else value, {})
    except NotAcceptedError as error:
        raise reader.refuse("ctc_reduction", value, str(error)) from None
