"""The encoder: `nemo.collections.asr.modules.ConformerEncoder`."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import (
    REQUIRED,
    Check,
    Drop,
    Map,
    NotAcceptedError,
    Read,
    Table,
    Values,
    boolean,
    integer,
    number,
    one_of,
    sequence,
    twice,
)
from ...configuration_checks import CONV_NORM_TYPES
from ...frames import SUBSAMPLINGS, NoSubsampling, StridedSubsampling
from ...validation import is_integer
from .common import SPEED, TRAINING, NemoReader, check_class
from .prompts import LANGUAGE_ID_KEYS

# Those without a number of groups.
PLAIN_CONV_NORMS = tuple(name for name in CONV_NORM_TYPES if name != "group_norm")


def _intermediate_size(value: Any, values: Values) -> int:
    return values["d_model"] * integer(value, values)


def _encoder_output_size(value: Any, values: Values) -> int | None:
    if value is None or integer(value, values) <= 0 or value == values["d_model"]:
        return None
    return int(value)


def _has_subsampling(values: Values) -> bool:
    return bool(values["subsampling"]) and values["subsampling_factor"] > 1


def _subsampling_type(value: Any, values: Values) -> str:
    if not _has_subsampling(values):
        return "none"
    return one_of(*(name for name, kind in SUBSAMPLINGS.items() if kind is not NoSubsampling))(value, values)


def _subsampling_factor(value: Any, values: Values) -> int:
    return integer(value, values) if _has_subsampling(values) else 1


def _subsampling_channels(value: Any, values: Values) -> int:
    return values["d_model"] if integer(value, values) == -1 else value


def _causal_downsampling(value: Any, values: Values) -> bool:
    # Only the convolutions can be causal; NeMo ignores the key next to any other subsampling.
    is_causal = boolean(value, values)
    return is_causal and SUBSAMPLINGS[_subsampling_type(values["subsampling"], values)] is StridedSubsampling


def _power_of_two(value: Any, values: Values) -> None:
    if not is_integer(value) or value < 1 or value & (value - 1):
        raise NotAcceptedError("1 or a power of 2")


def _reduction(value: Any, values: Values) -> tuple[str | None, int | None, int]:
    if not value or values["reduction_factor"] <= 1:
        return None, None, 1
    kind = one_of("pooling", "striding")(value, values)
    return kind, values["reduction_position"], values["reduction_factor"]


def _tied_position_biases(value: Any, values: Values) -> bool:
    # NeMo 3.0 ties the biases only with plain relative positions. Archives hold a copy in each layer all the same.
    return not boolean(value, values) and values["self_attention_model"] == "rel_pos"


def _contexts(value: Any, values: Values) -> tuple[list[int], list[list[int]] | None]:
    """The context in use and, where there are several, all of them."""
    if values["att_context_style"] == "chunked_limited_with_rc":
        return [-1, -1, -1], None  # NeMo discards the configured one: full context until another is set
    if not value:
        return [-1, -1], None
    contexts = value if isinstance(value[0], list | tuple) else [value]
    for context in contexts:
        if len(context) != 2 or not all(is_integer(side) for side in context):
            raise NotAcceptedError("[left, right] in frames, or a list of such pairs")
    contexts = [list(context) for context in contexts]
    return contexts[0], contexts if len(contexts) > 1 else None


def _context_probabilities(value: Any, values: Values) -> list[float] | None:
    _, contexts = _contexts(values["att_context_size"], values)
    if not value:
        return None
    chances = [number(chance, values) for chance in sequence(value, values)]
    count = len(contexts or [None])
    if len(chances) != count or min(chances) < 0 or abs(sum(chances) - 1) > 1e-6:
        raise NotAcceptedError(f"a probability for each of the {count} contexts, 1 in sum")
    return chances if contexts else None


def _conv_norm(value: Any, values: Values) -> tuple[str, int | None]:
    name = str(value)
    groups = name.removeprefix("group_norm")
    if name.startswith("group_norm") and groups.isdigit():
        if int(groups) == 0 or values["d_model"] % int(groups) != 0:
            raise NotAcceptedError(f"a number of groups that divides d_model={values['d_model']}")
        return "group_norm", int(groups)
    if name not in PLAIN_CONV_NORMS:
        raise NotAcceptedError(
            ", ".join(repr(choice) for choice in PLAIN_CONV_NORMS) + " or 'group_norm' and a number of groups"
        )
    return name, None


def _conv_context(value: Any, values: Values) -> list[int] | None:
    if value is None:
        return None
    if value == "causal":
        return [values["conv_kernel_size"] - 1, 0]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise NotAcceptedError("'causal', null or [left, right] in frames")
    if sum(value) + 1 != values["conv_kernel_size"]:
        raise NotAcceptedError(f"frames that sum up to conv_kernel_size - 1 = {values['conv_kernel_size'] - 1}")
    return list(value)


ENCODER: Table = {
    "_target_": check_class("ConformerEncoder", "ConformerEncoderAdapter"),
    "feat_in": Map("num_mel_bins", REQUIRED, integer),
    "feat_out": Map("encoder_output_size", -1, _encoder_output_size),
    "n_layers": Map("num_hidden_layers", REQUIRED, integer),
    "d_model": Map("hidden_size", REQUIRED, integer),
    "n_heads": Map("num_attention_heads", 4, integer),
    "ff_expansion_factor": Map("intermediate_size", 4, _intermediate_size),
    "use_bias": Map(("attention_bias", "convolution_bias"), True, twice(boolean)),
    "xscaling": Map("scale_input", True, boolean),
    "causal_downsampling": Map("causal_downsampling", False, _causal_downsampling),
    "subsampling": Map("subsampling_type", "striding", _subsampling_type),
    "subsampling_factor": Map("subsampling_factor", 4, _subsampling_factor),
    "subsampling_conv_channels": Map("subsampling_conv_channels", -1, _subsampling_channels),
    "subsampling_conv_chunking_factor": Check(SPEED, _power_of_two),
    "reduction": Map(("reduction_type", "reduction_position", "reduction_factor"), None, _reduction),
    "reduction_position": Read("_reduction"),
    "reduction_factor": Read("_reduction", 1),
    "self_attention_model": Map(
        "position_embedding_type", "rel_pos", one_of("rel_pos", "rel_pos_local_attn", "abs_pos")
    ),
    "untie_biases": Map("tie_position_biases", True, _tied_position_biases),
    "att_context_size": Map(("attention_context", "attention_contexts"), None, _contexts),
    "att_context_style": Map(
        "attention_context_style", "regular", one_of("regular", "chunked_limited", "chunked_limited_with_rc")
    ),
    "att_context_probs": Map("attention_context_probabilities", None, _context_probabilities),
    "att_chunk_context_size": Drop("the contexts that training draws from; inference takes the whole clip or is told"),
    "global_tokens": Map("num_global_tokens", 0, integer),
    "global_tokens_spacing": Map("global_tokens_spacing", 1, integer),
    "global_attn_separate": Map("global_attention_separate", False, boolean),
    "conv_kernel_size": Map("conv_kernel_size", 31, integer),
    "conv_norm_type": Map(("conv_norm_type", "conv_norm_groups"), "batch_norm", _conv_norm),
    "conv_context_size": Map("conv_context", None, _conv_context),
    "conv_context_style": Check(TRAINING, one_of("regular", "dcc")),
    "dropout": Map(("dropout", "activation_dropout"), 0.1, twice(number)),
    "dropout_pre_encoder": Map("dropout_pre_encoder", 0.1, number),
    "dropout_emb": Map("dropout_positions", 0.1, number),
    "dropout_att": Map("attention_dropout", 0.0, number),
    "stochastic_depth_drop_prob": Map("layerdrop", 0.0, number),
    "stochastic_depth_mode": Map("layerdrop_mode", "linear", one_of("linear", "uniform")),
    "stochastic_depth_start_layer": Map("layerdrop_start_layer", 1, integer),
    "pos_emb_max_len": Drop("limits nothing: the table grows with the audio"),
    "use_pytorch_sdpa": Drop(SPEED),
    "use_pytorch_sdpa_backends": Drop(SPEED),
    "sync_max_audio_length": Drop(SPEED),
    **LANGUAGE_ID_KEYS,
}


def map_encoder(section: Any, num_features: int, reader: NemoReader) -> dict[str, Any]:
    """
    Arguments of our configuration for the encoder.

    Args:
        section: The section.
        num_features: Features that the preprocessor gives.
        reader: Of the archive.
    """
    arguments, values = reader.apply(section, ENCODER, "encoder")
    if arguments["num_mel_bins"] != num_features:
        expected = f"the {num_features} features of the preprocessor (features x frame_splicing)"
        raise reader.refuse("encoder.feat_in", values["feat_in"], expected)
    return arguments
