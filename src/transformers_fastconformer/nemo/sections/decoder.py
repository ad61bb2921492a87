"""Prediction networks and CTC heads: `RNNTDecoder`, `StatelessTransducerDecoder` and `ConvASRDecoder`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checkpoints.key_table import (
    REQUIRED,
    Check,
    Drop,
    Map,
    NotAcceptedError,
    Pin,
    Read,
    Table,
    Values,
    boolean,
    integer,
    number_or_zero,
    one_of,
    sequence,
)
from ...validation import is_integer
from .common import SHAPE, TRAINING, NemoReader, check_class, class_of


def _num_ctc_classes(value: Any, values: Values) -> int:
    """Classes with the blank; a placeholder below 1 means the length of the vocabulary."""
    num_classes = integer(value, values)
    if num_classes < 1:
        if not values["vocabulary"]:
            raise NotAcceptedError("the number of classes, or a vocabulary")
        num_classes = len(values["vocabulary"])
    return num_classes + 1


def _with_blank(value: Any, values: Values) -> int:
    return integer(value, values) + 1


def _is_layer_norm(value: Any, values: Values) -> bool:
    return one_of("layer", None)(value, values) == "layer"


CTC_DECODER: Table = {
    "_target_": check_class("ConvASRDecoder"),
    "num_classes": Map("vocab_size", REQUIRED, _num_ctc_classes),
    "vocabulary": Read("tokenizer_map", check=sequence),
    "feat_in": Drop(SHAPE),
    "init_mode": Drop(TRAINING),
    "add_blank": Pin((True,)),
}

LSTM_DECODER: Table = {
    "_target_": check_class("RNNTDecoder"),
    "prednet": Read("PREDICTION_NETWORK", REQUIRED),
    "vocab_size": Map("vocab_size", REQUIRED, _with_blank),
    "normalization_mode": Pin((None,)),
    "random_state_sampling": Drop(TRAINING),
    "blank_as_pad": Check("false stores no row of zeros for the blank; it is put there", boolean),
}

STATELESS_DECODER: Table = {
    "_target_": check_class("StatelessTransducerDecoder"),
    "prednet": Read("PREDICTION_NETWORK", REQUIRED),
    "vocab_size": Map("vocab_size", REQUIRED, _with_blank),
    "context_size": Map("decoder_context_size", 1, integer),
    "normalization_mode": Map("decoder_layer_norm", None, _is_layer_norm),
}

PREDICTION_NETWORK: Table = {
    "pred_hidden": Map("decoder_hidden_size", REQUIRED, integer),
    "pred_rnn_layers": Map("num_decoder_layers", 1, integer),
    "dropout": Map("decoder_dropout", 0.0, number_or_zero),
    "rnn_hidden_size": Read("_check_lstm_width", -1),
    "t_max": Drop(TRAINING),
    "forget_gate_bias": Drop(TRAINING),
    "weights_init_scale": Drop(TRAINING),
    "hidden_hidden_bias_scale": Drop(TRAINING),
}


def map_prediction_network(section: Any, reader: NemoReader) -> dict[str, Any]:
    """Arguments of the prediction network of a transducer."""
    section = reader.without_class_nesting(section, "decoder")
    target = section.get("_target_", "RNNTDecoder") if isinstance(section, Mapping) else None
    is_stateless = class_of(target) == "StatelessTransducerDecoder"
    arguments, values = reader.apply(section, STATELESS_DECODER if is_stateless else LSTM_DECODER, "decoder")
    arguments["decoder_type"] = "stateless" if is_stateless else "lstm"
    network_arguments, network = reader.apply(values["prednet"], PREDICTION_NETWORK, "decoder.prednet")
    _check_lstm_width(network, reader)
    return arguments | network_arguments


def _check_lstm_width(network: Values, reader: NemoReader) -> None:
    """NeMo 3.0 starts an LSTM with a projection from states of the wrong width: it cannot decode with one."""
    width, hidden = network["rnn_hidden_size"], network["pred_hidden"]
    if width not in (None, hidden) and not (is_integer(width) and width <= 0):
        raise reader.refuse(
            "decoder.prednet.rnn_hidden_size", width, f"-1 or pred_hidden={hidden}, that is an LSTM without projection"
        )
