"""
Keys of the configurations of Transformers' classes and options of ours.

Tables of theirs say what becomes of each of their keys, with the defaults that their classes have; tables of ours say
which options they have no key for. The rows are those of `checkpoints.key_table`.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from ..checkpoints.key_table import (
    Check,
    Drop,
    Map,
    NotAcceptedError,
    Pin,
    Read,
    Table,
    Values,
    as_is,
    twice,
    with_defaults,
)

# The encoder


def _check_is(expected: Any, value: Any) -> None:
    if value not in (None, expected):
        raise NotAcceptedError(str(expected))


def _one_for_each_head(value: Any, values: Values) -> None:
    _check_is(values["num_attention_heads"], value)


def _share_of_width(value: Any, values: Values) -> None:
    heads = values["num_attention_heads"]
    _check_is(values["hidden_size"] // heads if heads else None, value)


ENCODER: Table = {
    "hidden_size": Map("hidden_size", 1024),
    "num_hidden_layers": Map("num_hidden_layers", 24),
    "num_attention_heads": Map("num_attention_heads", 8),
    "intermediate_size": Map("intermediate_size", 4096),
    "hidden_act": Map("hidden_act", "silu"),
    "attention_bias": Map("attention_bias", True),
    "convolution_bias": Map("convolution_bias", True),
    "conv_kernel_size": Map("conv_kernel_size", 9),
    "subsampling_factor": Map("subsampling_factor", 8),
    "subsampling_conv_channels": Map("subsampling_conv_channels", 256),
    "subsampling_conv_kernel_size": Map("subsampling_conv_kernel_size", 3),
    "subsampling_conv_stride": Map("subsampling_conv_stride", 2),
    "num_mel_bins": Map("num_mel_bins", 80),
    "scale_input": Map("scale_input", True),
    "dropout": Map("dropout", 0.1),
    "dropout_positions": Map("dropout_positions", 0.0),
    "activation_dropout": Map("activation_dropout", 0.1),
    "attention_dropout": Map("attention_dropout", 0.1),
    "layerdrop": Map("layerdrop", 0.1),
    "initializer_range": Map("initializer_range", 0.02),
    "sliding_window": Read("config_form._streaming_options", 71),
    "default_num_lookahead_tokens": Read("config_form._streaming_options", 13),
    "supported_num_lookahead_tokens": Drop("older scripts wrote it here; it is read from the processor"),
    "max_position_embeddings": Drop("positions are computed for the length at hand"),
    "num_key_value_heads": Check("one for each head", _one_for_each_head),
    "head_dim": Check("what the heads make of the width", _share_of_width),
}
# The encoder of a Canary where its section leaves something out.
CANARY_ENCODER = with_defaults(
    ENCODER, {"num_hidden_layers": 32, "num_mel_bins": 128, "scale_input": False, "layerdrop": 0.0}
)


def encoder_table(model_type: str) -> Table:
    """The rows of the encoder of a model type of theirs."""
    return CANARY_ENCODER if model_type == "canary" else ENCODER


# The heads

BLANK_READER = "config_form._check_blank"
DEFAULT_PROMPT, PROMPT_WIDTH = "default_prompt_id", "prompt_intermediate_size"
PADDING = "padding is the blank, which no text has"

COMMON_HEAD: Table = {
    "encoder_config": Read("ENCODER"),
    "initializer_range": Drop("the encoder's"),
}


def _read_reduction(value: Any, values: Values) -> Any:
    """Theirs is torch's: `"mean"` divides the loss of a clip by its tokens first."""
    return "mean_per_token" if value == "mean" else value


# The blank is the padding; the number is that of a file that does not say it.
CTC: Table = {
    **COMMON_HEAD,
    "vocab_size": Map("vocab_size", 1025),
    "ctc_loss_reduction": Map("ctc_loss_reduction", "mean", _read_reduction),
    "ctc_zero_infinity": Map("ctc_zero_infinity", True),
    "pad_token_id": Read(BLANK_READER, 1024),
    "blank_token_id": Drop("the padding is the blank"),
}
RNNT: Table = {
    **COMMON_HEAD,
    "vocab_size": Map("vocab_size", 8193),
    # Theirs has one width for the prediction and the joint network.
    "decoder_hidden_size": Map(("decoder_hidden_size", "joint_hidden_size"), 640, twice(as_is)),
    "num_decoder_layers": Map("num_decoder_layers", 2),
    "hidden_act": Map("joint_activation", "relu"),
    "max_symbols_per_step": Map("max_symbols_per_step", 10),
    "pad_token_id": Drop(PADDING),
    "blank_token_id": Read(BLANK_READER, 8192),
}
HEADS: dict[str, Table] = {
    "parakeet_ctc": CTC,
    "parakeet_rnnt": RNNT,
    "parakeet_tdt": {**RNNT, "durations": Map("durations", [0, 1, 2, 3, 4])},
    "nemotron_asr_streaming": with_defaults(RNNT, {"vocab_size": 1025, "blank_token_id": 1024}),
    "nemotron3_5_asr": {
        **with_defaults(RNNT, {"vocab_size": 13088, "blank_token_id": 13087}),
        "num_prompts": Map("num_prompts", 128),
        # The number of the language where none is given, and a width.
        DEFAULT_PROMPT: Read("config_form._map_prompts", 101),
        PROMPT_WIDTH: Read("config_form._map_prompts", 2048),
    },
    "canary": {
        **COMMON_HEAD,
        "decoder_config": Read("MULTITASK_DECODER"),
        "vocab_size": Map("vocab_size", 16384),
        "pad_token_id": Map("pad_token_id", 2),
        "eos_token_id": Map("eos_token_id", 3),
        "bos_token_id": Map("bos_token_id", 4),
        "decoder_start_token_id": Map("decoder_start_token_id", 7),
        "tie_word_embeddings": Pin((True,)),
    },
}
# The decoder of a Canary; its ids of tokens are those of the whole.
MULTITASK_DECODER: Table = {
    "hidden_size": Map("decoder_hidden_size", 1024),
    "num_hidden_layers": Map("num_decoder_layers", 8),
    "num_attention_heads": Map("num_decoder_attention_heads", 8),
    "intermediate_size": Map("decoder_intermediate_size", 4096),
    "hidden_act": Map("decoder_activation", "relu"),
    "max_position_embeddings": Map("decoder_max_positions", 1024),
    "attention_dropout": Map("decoder_attention_dropout", 0.0),
    "attention_bias": Pin((True,)),
    "vocab_size": Read("canary_form.read_decoder", 16384),
    "num_key_value_heads": Check("one for each head", _one_for_each_head),
    "head_dim": Read("canary_form.read_decoder", 128, _share_of_width),
    "initializer_range": Drop("the encoder's"),
    "pad_token_id": Drop("no text has it"),
    "eos_token_id": Drop("that of the whole counts"),
    "bos_token_id": Drop("that of the whole counts"),
}
BLANK_KEYS = {
    model_type: key
    for model_type, table in HEADS.items()
    for key, row in table.items()
    if isinstance(row, Read) and row.by == BLANK_READER
}
AUTOMATIC_LANGUAGE = "auto"

# What any configuration of Transformers may hold, that of release 4 too; nothing of it changes the mathematics.
GENERIC_KEYS = frozenset(
    set(PreTrainedConfig().to_dict())
    | set(GenerationConfig().to_dict())
    | {
        "_name_or_path",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "add_cross_attention",
        "auto_map",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "bos_token_id",
        "eos_token_id",
        "sep_token_id",
        "finetuning_task",
        "is_decoder",
        "is_encoder_decoder",
        "prefix",
        "pruned_heads",
        "task_specific_params",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "use_bfloat16",
        "use_cache",
        "use_return_dict",
    }
)

# Ours: options that the classes of Transformers have no key for, with the values that are theirs.

COMMON_PINS: dict[str, Pin] = {
    "subsampling_type": Pin(("dw_striding",)),
    "reduction_type": Pin((None,)),
    "position_embedding_type": Pin(("rel_pos",)),
    "has_speaker_kernel": Pin((False,)),
    "has_background_kernel": Pin((False,)),
    "later_speaker_kernels": Pin(([],)),
}
OFFLINE_PINS: dict[str, Pin] = {
    **COMMON_PINS,
    "causal_downsampling": Pin((False,)),
    "conv_norm_type": Pin(("batch_norm",)),
}
STREAMING_PINS: dict[str, Pin] = {
    **COMMON_PINS,
    "causal_downsampling": Pin((True,)),
    "conv_norm_type": Pin(("layer_norm",)),
    "attention_context_style": Pin(("chunked_limited",)),
}
TRANSDUCER_PINS: dict[str, Pin] = {"decoder_type": Pin(("lstm",))}
# RNN-T is decoded alike by both.
TDT_PINS: dict[str, Pin] = {"decoding_strategy": Pin(("greedy_batch",))}
MULTITASK_PINS: dict[str, Pin] = {
    "decoder_pre_norm": Pin((True,)),
    "decoder_final_norm": Pin((True,)),
    "decoder_learned_positions": Pin((False,)),
    "decoder_positions_dtype": Pin(("float32",)),
    "num_transformer_encoder_layers": Pin((0,)),
    "prompt_format": Pin(("canary2",)),
}
NO_PROMPTS: dict[str, Pin] = {"num_prompts": Pin((0,))}
# Only of training: their classes do not have it, so a loaded checkpoint trains by their rules.
TRAINING_ONLY: dict[str, Drop] = {
    "dropout_pre_encoder": Drop("their dropout of the first block's input is 'dropout'"),
    "layerdrop_mode": Drop("theirs drops every block alike"),
    "layerdrop_start_layer": Drop("theirs drops the first block too"),
    "attention_context_probabilities": Drop("theirs trains with one context"),
    "decoder_dropout": Drop("theirs has none"),
    "joint_dropout": Drop("theirs has none"),
    "sigma": Drop("an argument of their loss"),
    "omega": Drop("theirs has no such choice"),
    "ctc_loss_weight": Drop("theirs has no hybrids"),
    "mask_time_count": Drop("theirs masks no features"),
    "mask_feature_count": Drop("theirs masks no features"),
    "mask_rectangle_count": Drop("theirs masks no features"),
    "intermediate_ctc_layers": Drop("theirs has no losses between the blocks"),
    "transducer_loss_reduction": Drop("theirs takes the mean"),
    "fastemit_lambda": Drop("theirs has none"),
    "transducer_gradient_clamp": Drop("theirs has none"),
    "label_smoothing": Drop("theirs has none"),
    "decoder_embedding_dropout": Drop("theirs has none"),
    "token_head_dropout": Drop("theirs has none"),
    "decoder_residual_dropout": Drop("theirs has none"),
    "decoder_feed_forward_dropout": Drop("theirs has none"),
}
# Of decoding: their class is told by the call, or by its `generation_config.json`.
DECODING_ONLY: dict[str, Drop] = {
    "max_generation_delta": Drop("theirs writes until the end or max_length"),
    "decoding_strategy": Drop("the ends of texts are in generation_config.json"),
    "prompt_defaults": Drop("they are in the template of prompts"),
    "has_timestamps_model": Drop("theirs has no model of times"),
    "beam_size": Drop("theirs searches by other rules, see num_beams"),
    "beam_length_penalty": Drop("theirs searches by other rules, see length_penalty"),
}
