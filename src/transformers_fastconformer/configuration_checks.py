"""
Checks of the encoder's fields, and the choices that some of them have.

The class with these fields imports this file, so its instances are `PreTrainedConfig` here.
"""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .frames import REDUCTIONS, SUBSAMPLING_KERNEL_SIZE, SUBSAMPLING_STRIDE, SUBSAMPLINGS
from .validation import require, require_choice


class PositionType(NamedTuple):
    """A kind of position embeddings: distances or not, and attention in a sliding window or not."""

    is_relative: bool
    is_local: bool


POSITION_TYPES = {
    "rel_pos": PositionType(is_relative=True, is_local=False),
    "rel_pos_local_attn": PositionType(is_relative=True, is_local=True),
    "abs_pos": PositionType(is_relative=False, is_local=False),
}
CONTEXT_STYLES = ("regular", "chunked_limited", "chunked_limited_with_rc")
CONV_NORM_TYPES = ("batch_norm", "fused_batch_norm", "layer_norm", "instance_norm", "group_norm")
LAYERDROP_MODES = ("linear", "uniform")


def require_field(config: PreTrainedConfig, is_accepted: bool, name: str, expected: str) -> None:
    """`require`, for the field of this name."""
    require(is_accepted, name, getattr(config, name), expected)


def require_positive(config: PreTrainedConfig, name: str) -> None:
    require_field(config, getattr(config, name) > 0, name, "a positive integer")


def check_encoder(config: PreTrainedConfig) -> None:
    """Refuse values that are not accepted, or do not fit together."""
    _check_widths(config)
    _check_subsampling(config)
    _check_reduction(config)
    _check_attention(config)
    _check_convolution(config)
    _check_training(config)


def _check_widths(config: PreTrainedConfig) -> None:
    for name in ("num_mel_bins", "hidden_size", "num_attention_heads", "intermediate_size"):
        require_positive(config, name)
    require_field(config, config.num_hidden_layers >= 0, "num_hidden_layers", "0 or more")
    require_field(
        config,
        config.hidden_size % config.num_attention_heads == 0,
        "num_attention_heads",
        f"a divisor of hidden_size={config.hidden_size}",
    )
    require_field(
        config,
        config.hidden_act in ACT2FN,
        "hidden_act",
        "the name of an activation in transformers.activations.ACT2FN",
    )
    require_field(
        config,
        config.follows_speakers or not config.has_background_kernel,
        "has_background_kernel",
        "False where no kernel follows a speaker",
    )
    _check_speaker_kernels(config)


def _check_speaker_kernels(config: PreTrainedConfig) -> None:
    blocks = config.later_speaker_kernels
    are_blocks = all(1 <= block <= config.num_hidden_layers for block in blocks)
    require_field(
        config,
        are_blocks and sorted(set(blocks)) == blocks,
        "later_speaker_kernels",
        f"numbers of blocks in order, 1 to {config.num_hidden_layers}",
    )
    require_field(
        config,
        not blocks or config.reduction_type is None,
        "later_speaker_kernels",
        "[] with a reduction, after which frames are not those of the activities",
    )


def _check_subsampling(config: PreTrainedConfig) -> None:
    require_choice("subsampling_type", config.subsampling_type, SUBSAMPLINGS)
    kind = SUBSAMPLINGS[config.subsampling_type]
    require_field(config, kind.accepts(config.subsampling_factor), "subsampling_factor", kind.accepted_factors)
    for name, value in (
        ("subsampling_conv_kernel_size", SUBSAMPLING_KERNEL_SIZE),
        ("subsampling_conv_stride", SUBSAMPLING_STRIDE),
    ):
        require_field(config, getattr(config, name) == value, name, str(value))


def _check_reduction(config: PreTrainedConfig) -> None:
    if config.reduction_type is None:
        return
    require_choice("reduction_type", config.reduction_type, REDUCTIONS)
    factor = config.reduction_factor
    require_field(config, factor >= 1 and factor & (factor - 1) == 0, "reduction_factor", "a power of 2")
    position = -2 if config.reduction_position is None else config.reduction_position
    require_field(
        config,
        -1 <= position < config.num_hidden_layers,
        "reduction_position",
        f"-1 to {config.num_hidden_layers - 1}",
    )


def _check_attention(config: PreTrainedConfig) -> None:
    style, position_type = config.attention_context_style, config.position_embedding_type
    check_attention_context(list(config.attention_context), style, position_type)
    for context in config.attention_contexts or []:
        # Those a model was trained with go with the style, also where a sliding window is used instead.
        check_attention_context(list(context), style, "rel_pos")
    probabilities = config.attention_context_probabilities
    if probabilities is not None:
        contexts = config.attention_contexts or []
        require_field(
            config,
            len(probabilities) == len(contexts) and min(probabilities) >= 0 and abs(sum(probabilities) - 1) < 1e-6,
            "attention_context_probabilities",
            f"a probability for each of the {len(contexts)} attention_contexts, 1 in sum",
        )
    for name, minimum in (("num_global_tokens", 0), ("global_tokens_spacing", 1)):
        require_field(config, getattr(config, name) >= minimum, name, f"{minimum} or more")


def _check_convolution(config: PreTrainedConfig) -> None:
    require_positive(config, "conv_kernel_size")
    require_field(config, config.conv_kernel_size % 2 == 1, "conv_kernel_size", "an odd number")
    require_choice("conv_norm_type", config.conv_norm_type, CONV_NORM_TYPES)
    if config.conv_norm_type == "group_norm":
        groups = config.conv_norm_groups or 0
        require_field(
            config,
            groups > 0 and config.hidden_size % groups == 0,
            "conv_norm_groups",
            f"a divisor of hidden_size={config.hidden_size}",
        )
    context = config.conv_context
    if context is not None:
        require_field(
            config,
            len(context) == 2 and min(context) >= 0 and sum(context) + 1 == config.conv_kernel_size,
            "conv_context",
            f"two numbers that sum up to conv_kernel_size - 1 = {config.conv_kernel_size - 1}",
        )


def _check_training(config: PreTrainedConfig) -> None:
    require_choice("layerdrop_mode", config.layerdrop_mode, LAYERDROP_MODES)
    require_field(config, 0 <= config.layerdrop < 1, "layerdrop", "a probability below 1")
    require_field(
        config,
        config.layerdrop == 0 or 1 <= config.layerdrop_start_layer <= config.num_hidden_layers,
        "layerdrop_start_layer",
        f"1 to num_hidden_layers={config.num_hidden_layers}",
    )
    for name in (
        "dropout",
        "activation_dropout",
        "attention_dropout",
        "dropout_positions",
        "dropout_pre_encoder",
    ):
        require_field(config, 0 <= getattr(config, name) <= 1, name, "a probability")


def check_attention_context(context: list[int], style: str, position_type: str) -> None:
    """Raise a `ValueError` for an `attention_context` that does not fit the style or the kind of positions."""
    name = "attention_context"
    require_choice("attention_context_style", style, CONTEXT_STYLES)
    require_choice("position_embedding_type", position_type, POSITION_TYPES)
    if POSITION_TYPES[position_type].is_local:
        require(
            len(context) == 2 and min(context) >= 0 and max(context) > 0,
            name,
            context,
            f"[left, right], limits on both sides and one of them above 0, for {position_type!r}",
        )
        return
    if style == "chunked_limited_with_rc":
        require(
            len(context) == 3 and (context == [-1, -1, -1] or (min(context) >= 0 and context[1] >= 1)),
            name,
            context,
            "[left, chunk, right] with a chunk of 1 or more, or [-1, -1, -1] for no limit",
        )
        return
    require(len(context) == 2 and min(context) >= -1, name, context, "[left, right], -1 for no limit")
    if style == "chunked_limited" and context[0] > 0 and context[1] >= 0:
        require(
            context[0] % (context[1] + 1) == 0,
            name,
            context,
            "a left context that is a multiple of the chunk (right + 1)",
        )
