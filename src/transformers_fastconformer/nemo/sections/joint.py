"""The joint network: `nemo.collections.asr.modules.RNNTJoint`."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import (
    REQUIRED,
    Drop,
    Map,
    Read,
    Table,
    Values,
    integer,
    number_or_zero,
    one_of,
    sequence,
)
from ...configuration_fastconformer import JOINT_ACTIVATIONS
from .common import SHAPE, SPEED, TRAINING, NemoReader, check_class

JOINT: Table = {
    "_target_": check_class("RNNTJoint", "SampledRNNTJoint"),
    "jointnet": Read("JOINT_NETWORK", REQUIRED),
    "num_extra_outputs": Read("loss.read_durations", 0, check=integer),
    "num_classes": Drop(SHAPE),
    "vocabulary": Read("tokenizer_map", check=sequence),
    "log_softmax": Drop("changes scores with the device, never tokens"),
    "preserve_memory": Drop(SPEED),
    "fuse_loss_wer": Drop(TRAINING),
    "fused_batch_size": Drop(TRAINING),
    "experimental_fuse_loss_wer": Drop(TRAINING),
    "masking_prob": Drop(TRAINING),
    "n_samples": Drop(TRAINING),
}

JOINT_NETWORK: Table = {
    "joint_hidden": Map("joint_hidden_size", REQUIRED, integer),
    "activation": Map("joint_activation", REQUIRED, one_of(*JOINT_ACTIVATIONS)),
    "dropout": Map("joint_dropout", 0.0, number_or_zero),
    "encoder_hidden": Drop(SHAPE),
    "pred_hidden": Drop(SHAPE),
}


def map_joint(section: Any, reader: NemoReader) -> tuple[dict[str, Any], Values]:
    """Arguments of the joint network, and the values of its section."""
    if section is None:
        raise reader.refuse("joint", None, "a section")
    _, values = reader.apply(section, JOINT, "joint")
    arguments, _ = reader.apply(values["jointnet"], JOINT_NETWORK, "joint.jointnet")
    return arguments, values
