"""Self-supervised models: the quantiser of their targets, the prediction, and the frames that are hidden."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import (
    REQUIRED,
    Drop,
    Map,
    Pin,
    Read,
    Row,
    Table,
    Values,
    boolean,
    integer,
    number,
    number_or_zero,
)
from .common import SHAPE, TRAINING, NemoReader, check_class

POST_CONV = "post_conv"
POSITIONS = ("pre_conv", POST_CONV)

# Sections and options beyond those of every model.
PRETRAINING: dict[str, Row] = {
    "quantizer": Read("QUANTIZER", REQUIRED),
    "decoder": Read("PREDICTION", REQUIRED),
    "masking": Read("MASKING", REQUIRED),
    "loss": Read("MASKED_LOSS", REQUIRED),
    "mask_position": Read("map_pretraining", POSITIONS[0]),
    "num_books": Drop("that of the quantizer counts"),
    "num_classes": Drop("that of the quantizer counts"),
    "code_dim": Drop("that of the quantizer counts"),
    "squeeze_single": Drop(SHAPE),
    "model_defaults": Drop("not read by these classes"),
    "spec_augment": Drop("not read by these classes"),
}
QUANTIZER: Table = {
    "_target_": check_class("RandomProjectionVectorQuantizer"),
    "feat_in": Read("map_pretraining", check=integer),
    "code_dim": Map("codebook_dim", REQUIRED, integer),
    "num_classes": Map("codebook_size", REQUIRED, integer),
    "num_books": Map("num_codebooks", REQUIRED, integer),
    "combine_time_steps": Map("frames_per_token", 1, integer),
    "dist_fn": Pin(("l2", "cosine")),  # of vectors of length 1 both find the same
    "time_ahead": Pin((False,)),
    "freeze": Drop(TRAINING),
    "squeeze_single": Drop(SHAPE),
}
PREDICTION: Table = {
    "_target_": check_class("MultiSoftmaxDecoder"),
    "feat_in": Read("map_pretraining", check=integer),
    "num_classes": Read("map_pretraining", REQUIRED, check=integer),
    "num_decoders": Read("map_pretraining", 1, check=integer),
    "use_bias": Map("prediction_bias", False, boolean),
    "init_mode": Drop(TRAINING),
    "squeeze_single": Drop(SHAPE),
}
MASKING: Table = {
    "_target_": check_class("RandomBlockMasking"),
    "feat_in": Drop(SHAPE),
    "mask_prob": Map("mask_probability", 0.5, number_or_zero),
    # Frames of what is masked: NeMo divides a number of mel frames before it saves a `post_conv` model.
    "block_size": Read("map_pretraining", 48, check=integer),
    "allow_overlap": Map("mask_overlap", False, boolean),
    "mask_value": Drop("the vector is among the weights"),
    "max_mask_ratio": Drop("not read by NeMo 3.0"),
    "freeze": Drop(TRAINING),
}
MASKED_LOSS: Table = {
    "_target_": check_class("MultiMLMLoss"),
    "combine_time_steps": Read("map_pretraining", 1, check=integer),
    "mask_threshold": Map("mask_threshold", 0.8, number),
    "num_decoders": Read("map_pretraining", 1, check=integer),
    "squeeze_single": Drop(SHAPE),
}


def map_pretraining(sections: Values, num_features: int, arguments: Values, reader: NemoReader) -> dict[str, Any]:
    """
    Arguments of the quantiser, the prediction and the masks.

    Args:
        sections: The sections of the configuration.
        num_features: Width of the features.
        arguments: Those of the encoder.
        reader: Of the archive.
    """
    position = sections["mask_position"]
    if position not in POSITIONS:
        raise reader.refuse("mask_position", position, " or ".join(map(repr, POSITIONS)))
    found, quantizer = reader.apply(sections["quantizer"], QUANTIZER, "quantizer")
    of_prediction, prediction = reader.apply(sections["decoder"], PREDICTION, "decoder")
    of_masks, masks = reader.apply(sections["masking"], MASKING, "masking")
    of_loss, loss = reader.apply(sections["loss"], MASKED_LOSS, "loss")
    is_after = position == POST_CONV
    frame_size = arguments["hidden_size"] if is_after else num_features
    width = arguments["encoder_output_size"] or arguments["hidden_size"]
    steps = found["frames_per_token"]
    for key, value, expected in (
        ("quantizer.feat_in", quantizer["feat_in"], frame_size),
        ("decoder.feat_in", prediction["feat_in"], width),
        ("decoder.num_classes", prediction["num_classes"], found["codebook_size"]),
        ("decoder.num_decoders", prediction["num_decoders"], found["num_codebooks"]),
        ("loss.num_decoders", loss["num_decoders"], found["num_codebooks"]),
        ("loss.combine_time_steps", loss["combine_time_steps"], steps),
    ):
        if value is not None and value != expected:
            raise reader.refuse(key, value, f"{expected}, as the other sections have it")
    expected_steps = 1 if is_after else arguments["subsampling_factor"]
    if steps != expected_steps:
        raise reader.refuse("quantizer.combine_time_steps", steps, f"{expected_steps}, so that a token is a frame")
    # An archive that NeMo 3.0 saved after another restoring has it divided twice; only training is told by it.
    block = max(masks["block_size"], 1)
    placed = {"masks_after_subsampling": is_after, "mask_block_frames": block}
    return {**found, **of_prediction, **of_masks, **of_loss, **placed}
