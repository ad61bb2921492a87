"""Sortformer: its transformer, the activities of speakers, and its way through long recordings."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import (
    REQUIRED,
    Drop,
    Map,
    Read,
    Row,
    Table,
    Values,
    integer,
    number,
    number_or_zero,
    section,
)
from .common import REPORTING, SHAPE, TRAINING, NemoReader, check_class
from .multitask import TRANSFORMER_ENCODER

# Sections and options beyond those of every model.
DIARIZATION: dict[str, Row] = {
    "model_defaults": Read("DIARIZATION_DEFAULTS", REQUIRED, check=section),
    "sortformer_modules": Read("SORTFORMER_MODULES", REQUIRED),
    "transformer_encoder": Read("TRANSFORMER_ENCODER", REQUIRED),
    "max_num_of_spks": Read("map_diarization", check=integer),
    "loss": Drop(TRAINING),
    "pil_weight": Drop(TRAINING),
    "ats_weight": Drop(TRAINING),
    "augmentor": Drop(TRAINING),
    "negative_init_val": Drop(TRAINING),
    "batch_size": Drop(TRAINING),
    "num_workers": Drop(TRAINING),
    "session_len_sec": Drop(TRAINING),
    "lr": Drop(TRAINING),
    "soft_label_thres": Drop(TRAINING),
    "soft_targets": Drop(TRAINING),
    "async_streaming": Drop("recordings of a batch are always at places of their own"),
    "max_batch_dur": Drop("a limit of memory"),
    "interpolated_scale": Drop(REPORTING),
    "ignore_collar": Drop(REPORTING),
}
DIARIZATION_DEFAULTS: Table = {
    "fc_d_model": Read("map_diarization", REQUIRED, check=integer),
    "tf_d_model": Read("map_diarization", REQUIRED, check=integer),
}
SORTFORMER_MODULES: Table = {
    "_target_": check_class("SortformerModules"),
    "num_spks": Map("num_speakers", 4, integer),
    "dropout_rate": Map("speaker_dropout", 0.5, number_or_zero),
    "fc_d_model": Drop(SHAPE),
    "tf_d_model": Drop(SHAPE),
    "subsampling_factor": Read("map_diarization", 8, check=integer),
    "spkcache_len": Map("cache_frames", 188, integer),
    "fifo_len": Map("queue_frames", 0, integer),
    "chunk_len": Map("chunk_frames", 188, integer),
    "spkcache_update_period": Map("update_frames", 188, integer),
    "chunk_left_context": Map("left_context_frames", 1, integer),
    "chunk_right_context": Map("right_context_frames", 1, integer),
    "spkcache_sil_frames_per_spk": Map("cache_silence_frames", 3, integer),
    "causal_attn_rate": Drop(TRAINING),
    "causal_attn_rc": Drop(TRAINING),
    "scores_add_rnd": Drop(TRAINING),
    "max_index": Drop("a number for what is not there"),
    "pred_score_threshold": Map("cache_min_probability", 0.25, number),
    "scores_boost_latest": Map("cache_latest_score", 0.05, number),
    "sil_threshold": Map("cache_silence_threshold", 0.2, number),
    "strong_boost_rate": Map("cache_strong_share", 0.75, number),
    "weak_boost_rate": Map("cache_weak_share", 1.5, number),
    "min_pos_scores_rate": Map("cache_positive_share", 0.5, number),
}


def map_diarization(
    sections: Values, encoder_width: int, subsampling_factor: int, reader: NemoReader
) -> dict[str, Any]:
    """
    Arguments of all that stands after the encoder.

    Args:
        sections: The sections of the configuration.
        encoder_width: Width of the encoder's output.
        subsampling_factor: Mel frames of an encoder frame.
        reader: Of the archive.
    """
    arguments, modules = reader.apply(sections["sortformer_modules"], SORTFORMER_MODULES, "sortformer_modules")
    layers, _ = reader.apply(sections["transformer_encoder"], TRANSFORMER_ENCODER, "transformer_encoder")
    layers["num_transformer_encoder_layers"] = layers.pop("num_layers")
    width = layers["transformer_hidden_size"] = layers.pop("hidden_size")
    _, defaults = reader.apply(sections["model_defaults"], DIARIZATION_DEFAULTS, "model_defaults")
    # NeMo puts a projection after the encoder where these two numbers differ, so they must be the widths.
    for key, expected in (("fc_d_model", encoder_width), ("tf_d_model", width)):
        if defaults[key] != expected:
            raise reader.refuse(f"model_defaults.{key}", defaults[key], f"the width of that part, which is {expected}")
    if modules["subsampling_factor"] != subsampling_factor:
        found, expected = modules["subsampling_factor"], f"that of the encoder, {subsampling_factor}"
        raise reader.refuse("sortformer_modules.subsampling_factor", found, expected)
    speakers = sections["max_num_of_spks"]
    if speakers not in (None, arguments["num_speakers"]):
        expected = f"sortformer_modules.num_spks, which is {arguments['num_speakers']}"
        raise reader.refuse("max_num_of_spks", speakers, expected)
    return {**arguments, **layers, "is_streaming": bool(sections["streaming_mode"])}
