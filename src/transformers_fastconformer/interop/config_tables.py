"""
Configurations of Transformers' classes and ours: tables, read in both directions.

Every key is mapped, pinned (it must have the value that the other form takes for granted) or dropped with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from ..configuration_fastconformer import FastConformerConfig, FastConformerRNNTConfig
from .families import FAMILIES, FAMILY_OF_TYPE, Family

# Theirs and ours: the same value under both names.
ENCODER_KEYS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "attention_bias": "attention_bias",
    "convolution_bias": "convolution_bias",
    "conv_kernel_size": "conv_kernel_size",
    "subsampling_factor": "subsampling_factor",
    "subsampling_conv_channels": "subsampling_conv_channels",
    "subsampling_conv_kernel_size": "subsampling_conv_kernel_size",
    "subsampling_conv_stride": "subsampling_conv_stride",
    "num_mel_bins": "num_mel_bins",
    "scale_input": "scale_input",
    "dropout": "dropout",
    "dropout_positions": "dropout_positions",
    "activation_dropout": "activation_dropout",
    "attention_dropout": "attention_dropout",
    "layerdrop": "layerdrop",
    "initializer_range": "initializer_range",
}
CTC_KEYS = {
    "vocab_size": "vocab_size",
    "ctc_loss_reduction": "ctc_loss_reduction",
    "ctc_zero_infinity": "ctc_zero_infinity",
}
RNNT_KEYS = {
    "vocab_size": "vocab_size",
    "decoder_hidden_size": "decoder_hidden_size",
    "num_decoder_layers": "num_decoder_layers",
    "hidden_act": "joint_activation",
    "max_symbols_per_step": "max_symbols_per_step",
}
TDT_KEYS = {**RNNT_KEYS, "durations": "durations"}
HEAD_KEYS: dict[str, dict[str, str]] = {
    "parakeet_ctc": CTC_KEYS,
    "parakeet_rnnt": RNNT_KEYS,
    "parakeet_tdt": TDT_KEYS,
    "nemotron_asr_streaming": RNNT_KEYS,
    "nemotron3_5_asr": {**RNNT_KEYS, "num_prompts": "num_prompts"},
    "canary": {},
}
# What they may leave out of a file, as their classes have it.
ENCODER_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "intermediate_size": 4096,
    "hidden_act": "silu",
    "attention_bias": True,
    "convolution_bias": True,
    "conv_kernel_size": 9,
    "subsampling_factor": 8,
    "subsampling_conv_channels": 256,
    "subsampling_conv_kernel_size": 3,
    "subsampling_conv_stride": 2,
    "num_mel_bins": 80,
    "scale_input": True,
    "dropout": 0.1,
    "dropout_positions": 0.0,
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "layerdrop": 0.1,
    "initializer_range": 0.02,
    "sliding_window": 71,
    "default_num_lookahead_tokens": 13,
}
# The encoder of a Canary where its section leaves something out.
CANARY_ENCODER_DEFAULTS = {"num_hidden_layers": 32, "num_mel_bins": 128, "scale_input": False, "layerdrop": 0.0}
TRANSDUCER_DEFAULTS = {
    "decoder_hidden_size": 640,
    "num_decoder_layers": 2,
    "hidden_act": "relu",
    "max_symbols_per_step": 10,
}
HEAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "parakeet_ctc": {"vocab_size": 1025, "ctc_loss_reduction": "mean", "ctc_zero_infinity": True},
    "parakeet_rnnt": {"vocab_size": 8193, **TRANSDUCER_DEFAULTS},
    "parakeet_tdt": {"vocab_size": 8193, **TRANSDUCER_DEFAULTS, "durations": [0, 1, 2, 3, 4]},
    "nemotron_asr_streaming": {"vocab_size": 1025, **TRANSDUCER_DEFAULTS},
    "nemotron3_5_asr": {"vocab_size": 13088, **TRANSDUCER_DEFAULTS, "num_prompts": 128},
    "canary": {},
}
# The blank where a file does not say it: of CTC it is the padding.
BLANK_DEFAULTS = {
    "parakeet_ctc": ("pad_token_id", 1024),
    "parakeet_rnnt": ("blank_token_id", 8192),
    "parakeet_tdt": ("blank_token_id", 8192),
    "nemotron_asr_streaming": ("blank_token_id", 1024),
    "nemotron3_5_asr": ("blank_token_id", 13087),
}
# Of models with language prompts: the number of the language where none is given, and a width.
DEFAULT_PROMPT, DEFAULT_PROMPT_ID = "default_prompt_id", 101
PROMPT_WIDTH, DEFAULT_PROMPT_WIDTH = "prompt_intermediate_size", 2048
AUTOMATIC_LANGUAGE = "auto"
DROPPED_ENCODER_KEYS = {
    "max_position_embeddings": "positions are computed for the length at hand",
    "num_key_value_heads": "checked: one for each head",
    "head_dim": "checked: what the heads make of the width",
    "sliding_window": "left part of attention_context",
    "default_num_lookahead_tokens": "right part of attention_context",
    "supported_num_lookahead_tokens": "older scripts wrote it here; it is read from the processor",
}
DROPPED_HEAD_KEYS = {
    "pad_token_id": "padding is the blank, which no text has",
    "blank_token_id": "checked: the last class",
    "initializer_range": "the encoder's",
    "encoder_config": "mapped key by key",
}
DROPPED_PROMPT_KEYS = {
    DEFAULT_PROMPT: "default_language, by its number",
    PROMPT_WIDTH: "checked: twice the width of the encoder",
}
DROPPED_CANARY_KEYS = {
    "decoder_config": "the encoder alone is read",
    "decoder_start_token_id": "the encoder alone is read",
    "vocab_size": "the encoder alone is read",
    "max_position_embeddings": "the encoder alone is read",
}
# What any configuration of Transformers may hold, that of release 4 too; nothing of it changes the mathematics.
GENERIC_KEYS = (
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

# Ours: what the classes of Transformers have no option for, with the values that are theirs.
COMMON_PINS: dict[str, tuple[Any, ...]] = {
    "subsampling_type": ("dw_striding",),
    "reduction_type": (None,),
    "position_embedding_type": ("rel_pos",),
    "has_speaker_kernel": (False,),
    "has_background_kernel": (False,),
}
OFFLINE_PINS: dict[str, tuple[Any, ...]] = {
    **COMMON_PINS,
    "causal_downsampling": (False,),
    "conv_norm_type": ("batch_norm",),
}
STREAMING_PINS: dict[str, tuple[Any, ...]] = {
    **COMMON_PINS,
    "causal_downsampling": (True,),
    "conv_norm_type": ("layer_norm",),
    "attention_context_style": ("chunked_limited",),
}
TRANSDUCER_PINS: dict[str, tuple[Any, ...]] = {"decoder_type": ("lstm",)}
NO_PROMPTS: dict[str, tuple[Any, ...]] = {"num_prompts": (0,)}
# Ours, of training alone: their classes do not have it, so a loaded checkpoint trains by their rules.
TRAINING_ONLY = {
    "dropout_pre_encoder": "their dropout of the first block's input is 'dropout'",
    "layerdrop_mode": "theirs drops every block alike",
    "layerdrop_start_layer": "theirs drops the first block too",
    "attention_context_probabilities": "theirs trains with one context",
    "decoder_dropout": "theirs has none",
    "joint_dropout": "theirs has none",
    "sigma": "an argument of their loss",
    "omega": "theirs has no such choice",
    "ctc_loss_weight": "theirs has no hybrids",
}


def refuse(name: str, value: object, family: str, expected: str) -> ValueError:
    """The error for a value that the other form cannot express."""
    return ValueError(f"{name}={value!r} is not supported by {family}; expected {expected}.")


# Theirs to ours


def config_from_transformers(
    config_dict: Mapping[str, Any], processor_dict: Mapping[str, Any] | None = None, source: str = "config.json"
) -> tuple[Family, FastConformerConfig]:
    """
    Our configuration for one of theirs.

    Args:
        config_dict: Their `config.json`.
        processor_dict: Their `processor_config.json`, which knows the look-aheads of a streaming model.
        source: Where it comes from, for messages.

    Raises:
        ValueError: for a model type that is none of theirs, a key that is not known, and a value that is not accepted.
    """
    model_type = config_dict.get("model_type")
    family = FAMILY_OF_TYPE.get(str(model_type))
    if family is None:
        raise ValueError(
            f"{source}: model_type={model_type!r} is not supported; expected one of {sorted(FAMILY_OF_TYPE)}."
        )
    values: dict[str, Any] = {}
    if family.is_encoder_alone:
        section: Mapping[str, Any] = config_dict
    else:
        section = config_dict.get("encoder_config") or {}
        if not isinstance(section, Mapping):
            raise ValueError(f"{source}: encoder_config={section!r} is not supported; expected a section of values.")
        values.update(_map_head(config_dict, family, source))
    values.update(_map_encoder(section, family, processor_dict or {}, source))
    if family.has_prompts:
        values.update(_map_prompts(config_dict, values["hidden_size"], processor_dict or {}, source))
    try:
        return family, family.config_class(**values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _map_encoder(
    section: Mapping[str, Any], family: Family, processor_dict: Mapping[str, Any], source: str
) -> dict[str, Any]:
    found_type = section.get("model_type", family.encoder_type)
    if found_type != family.encoder_type:
        raise refuse(f"{source}: encoder_config.model_type", found_type, "this package", repr(family.encoder_type))
    _check_known(section, {*ENCODER_KEYS, *DROPPED_ENCODER_KEYS}, source)
    defaults = {**ENCODER_DEFAULTS, **(CANARY_ENCODER_DEFAULTS if family.model_type == "canary" else {})}
    stored = {**defaults, **section}
    values = {ours: stored[theirs] for theirs, ours in ENCODER_KEYS.items()}
    heads = values["num_attention_heads"]
    for name, expected in (
        ("num_key_value_heads", heads),
        ("head_dim", values["hidden_size"] // heads if heads else None),
    ):
        value = section.get(name)
        if value not in (None, expected):
            raise refuse(f"{source}: {name}", value, "this package", str(expected))
    values["dropout_pre_encoder"] = values["dropout"]
    if values["layerdrop"]:
        values["layerdrop_mode"] = "uniform"
    if family.is_streaming:
        kernel_size = values["conv_kernel_size"]
        left_frames, right_frames = stored["sliding_window"] - 1, stored["default_num_lookahead_tokens"]
        values |= {
            "causal_downsampling": True,
            "conv_norm_type": "layer_norm",
            "conv_context": [kernel_size - 1, 0],
            "attention_context_style": "chunked_limited",
            "attention_context": [left_frames, right_frames],
        }
        look_aheads = processor_dict.get("supported_num_lookahead_tokens")
        if look_aheads is not None:
            values["attention_contexts"] = [[left_frames, look_ahead] for look_ahead in look_aheads]
    return values


def _map_prompts(
    config_dict: Mapping[str, Any], hidden_size: int, processor_dict: Mapping[str, Any], source: str
) -> dict[str, Any]:
    width = config_dict.get(PROMPT_WIDTH, DEFAULT_PROMPT_WIDTH)
    if width != 2 * hidden_size:
        raise refuse(f"{source}: {PROMPT_WIDTH}", width, "this package", f"{2 * hidden_size}, twice hidden_size")
    number = config_dict.get(DEFAULT_PROMPT, DEFAULT_PROMPT_ID)
    # The codes are known to the processor alone.
    languages = processor_dict.get("prompt_dictionary") or {AUTOMATIC_LANGUAGE: number}
    codes = sorted(
        (code for code in languages if languages[code] == number), key=lambda code: code != AUTOMATIC_LANGUAGE
    )
    return {"prompt_languages": dict(languages), "default_language": codes[0] if codes else None}


def _map_head(config_dict: Mapping[str, Any], family: Family, source: str) -> dict[str, Any]:
    keys = HEAD_KEYS[family.model_type]
    dropped = {**DROPPED_HEAD_KEYS, **(DROPPED_PROMPT_KEYS if family.has_prompts else {})}
    if family.model_type == "canary":
        dropped |= DROPPED_CANARY_KEYS
    _check_known(config_dict, {*keys, *dropped}, source)
    stored = {**HEAD_DEFAULTS[family.model_type], **config_dict}
    values = {ours: stored[theirs] for theirs, ours in keys.items()}
    if "decoder_hidden_size" in values:
        values["joint_hidden_size"] = values["decoder_hidden_size"]  # theirs has one width for both
    if family.model_type in BLANK_DEFAULTS:
        name, default = BLANK_DEFAULTS[family.model_type]
        blank_token_id, last = config_dict.get(name, default), values["vocab_size"] - 1
        if blank_token_id != last:
            raise refuse(f"{source}: {name}", blank_token_id, "this package", f"{last}, the last class, as the blank")
    return values


def _check_known(section: Mapping[str, Any], known: set[str], source: str) -> None:
    unknown = sorted(set(section) - known - GENERIC_KEYS)
    if unknown:
        name = unknown[0]
        raise ValueError(f"{source}: {name}={section[name]!r} is not supported; expected none but {sorted(known)}.")


# Ours to theirs


def family_of_config(config: FastConformerConfig, head: str | None = None) -> Family:
    """
    The class of Transformers that one of our configurations is written for.

    Args:
        config: Our configuration.
        head: `"ctc"` or `"transducer"`, of a hybrid; None where there is one head.

    Raises:
        ValueError: for a hybrid without a choice, a choice that the checkpoint does not have, and a kind of model that
            Transformers has no class for.
    """
    kind: type[FastConformerConfig] = type(config)
    is_hybrid = isinstance(config, FastConformerRNNTConfig) and config.has_ctc_head
    if head not in (None, "ctc", "transducer"):
        raise ValueError(f"head={head!r} is not supported; expected 'ctc', 'transducer' or None.")
    if is_hybrid and head is None:
        raise ValueError(
            "has_ctc_head=True is not supported by Transformers, which has no class with two heads; expected "
            "head='transducer' or head='ctc', to write one of them."
        )
    if head is not None and not is_hybrid:
        raise ValueError(f"head={head!r} is not supported; expected None, as this checkpoint has no two heads.")
    has_prompts = getattr(config, "num_prompts", 0) > 0
    by_class = {family.config_class.model_type: family for family in _written(config.causal_downsampling, has_prompts)}
    family = by_class.get("fastconformer_ctc" if head == "ctc" else kind.model_type)
    if family is None:
        have = ", ".join(sorted(family.class_name for family in by_class.values()))
        raise ValueError(
            f"causal_downsampling=True with model_type={kind.model_type!r}"
            f"{' and head=' + repr(head) if head else ''} is not supported by Transformers; expected False, or a "
            f"model for one of {have}."
        )
    return family


def _written(is_streaming: bool, has_prompts: bool) -> list[Family]:
    """Classes for one kind of encoder; with prompts those that have them come last, and so win in a dictionary."""
    found = [family for family in FAMILIES if family.is_written and family.is_streaming == is_streaming]
    return [family for family in found if not family.has_prompts] + [
        family for family in found if family.has_prompts and has_prompts
    ]


def config_to_transformers(config: FastConformerConfig, head: str | None = None) -> tuple[Family, dict[str, Any]]:
    """
    Their configuration, as the arguments of their class, for one of ours.

    Args:
        config: Our configuration.
        head: The head of a hybrid to write, see `family_of_config`.

    Raises:
        ValueError: naming the first option that their class cannot express, its value and what is accepted.
    """
    family = family_of_config(config, head)
    name = family.class_name
    _check_pins(config, STREAMING_PINS if family.is_streaming else OFFLINE_PINS, name)
    if config.encoder_output_size not in (None, config.hidden_size):
        raise refuse("encoder_output_size", config.encoder_output_size, name, f"None or {config.hidden_size}")
    encoder: dict[str, Any] = {theirs: getattr(config, ours) for theirs, ours in ENCODER_KEYS.items()}
    if config.layerdrop_mode != "uniform":
        encoder["layerdrop"] = 0.0
    kernel_size = config.conv_kernel_size
    if family.is_streaming:
        left_frames, right_frames = config.attention_context
        if min(left_frames, right_frames) < 0:
            raise refuse("attention_context", config.attention_context, name, "limits of 0 or more on both sides")
        expected_context = [kernel_size - 1, 0]
        encoder |= {"sliding_window": left_frames + 1, "default_num_lookahead_tokens": right_frames}
    else:
        expected_context = [kernel_size // 2, kernel_size // 2]
        if any(frames != -1 for frames in config.attention_context):
            raise refuse("attention_context", config.attention_context, name, "[-1, -1], no limit")
        if config.num_mel_bins % config.subsampling_factor:
            expected = f"a multiple of subsampling_factor={config.subsampling_factor}"
            raise refuse("num_mel_bins", config.num_mel_bins, name, expected)
    if list(config.conv_padding) != expected_context:
        raise refuse("conv_context", config.conv_context, name, f"{expected_context}")
    if family.is_encoder_alone:
        return family, encoder
    values = {theirs: getattr(config, ours) for theirs, ours in HEAD_KEYS[family.model_type].items()}
    values["encoder_config"] = {**encoder, "model_type": family.encoder_type}
    blank_token_id = values["vocab_size"] - 1
    values["pad_token_id"] = blank_token_id
    if isinstance(config, FastConformerRNNTConfig) and head != "ctc":
        _check_pins(config, TRANSDUCER_PINS if family.has_prompts else TRANSDUCER_PINS | NO_PROMPTS, name)
        # Theirs has one width for prediction and joint network: the narrower one is filled up, see `widen`.
        values["decoder_hidden_size"] = max(config.decoder_hidden_size, config.joint_hidden_size)
        durations = list(values.get("durations", []))
        if durations != list(range(len(durations))):
            expected = f"{list(range(len(durations)))}: it takes the number of a class for the duration"
            raise refuse("durations", durations, name, expected)
        values["blank_token_id"] = blank_token_id
        if family.has_prompts:
            languages = config.prompt_languages or {}
            if config.default_language is None:
                raise refuse("default_language", None, name, f"one of {sorted(languages)}, as it must have one")
            values |= {DEFAULT_PROMPT: languages[config.default_language], PROMPT_WIDTH: 2 * config.hidden_size}
    elif isinstance(config, FastConformerRNNTConfig):
        _check_pins(config, NO_PROMPTS, name)
    return family, values


def _check_pins(config: FastConformerConfig, pins: Mapping[str, Sequence[Any]], class_name: str) -> None:
    for name, accepted in pins.items():
        value = getattr(config, name)
        if value not in accepted:
            raise refuse(name, value, class_name, " or ".join(map(repr, accepted)))


def look_aheads_of(config: FastConformerConfig) -> list[int]:
    """Right contexts that a streaming model was trained with, among those with the left context in use."""
    left_frames, right_frames = config.attention_context
    contexts = config.attention_contexts or []
    look_aheads = [right for left, right in contexts if left == left_frames]
    return look_aheads if right_frames in look_aheads else [right_frames, *look_aheads]


def options_left_out(config: FastConformerConfig, family: Family) -> dict[str, str]:
    """Options that the written form has no place for and that give no other numbers: name, and the reason."""
    default = type(config)()
    left_out = {
        name: f"of training alone; {reason}"
        for name, reason in TRAINING_ONLY.items()
        if hasattr(config, name) and getattr(config, name) not in (getattr(default, name), None)
    }
    if config.dropout_pre_encoder == config.dropout:
        left_out.pop("dropout_pre_encoder", None)
    without = ["layerdrop"] if not config.layerdrop else []
    if not issubclass(family.config_class, FastConformerRNNTConfig):
        without += ["decoder_", "joint_", "sigma", "omega", "ctc_loss_weight"]  # of the other head of a hybrid
    left_out = {name: reason for name, reason in left_out.items() if not name.startswith(tuple(without))}
    contexts = [list(context) for context in config.attention_contexts or []]
    if any(context[0] != config.attention_context[0] for context in contexts) or (
        contexts and not family.is_streaming
    ):
        left_out["attention_contexts"] = f"{family.class_name} has one left context, that of attention_context"
    return left_out


# Of our processor: how words and segments of timestamps are told apart, which theirs does not do.
TIMESTAMP_OPTIONS = ("word_separator", "segment_separators", "segment_gap_frames")

# Feature extractors

FEATURE_KEYS = {
    "feature_size": "feature_size",
    "sampling_rate": "sampling_rate",
    "hop_length": "hop_length",
    "n_fft": "n_fft",
    "win_length": "win_length",
    "preemphasis": "preemphasis",
}
FEATURE_DEFAULTS: dict[str, Any] = {
    "feature_size": 80,
    "sampling_rate": 16000,
    "hop_length": 160,
    "n_fft": 512,
    "win_length": 400,
    "preemphasis": 0.97,
}
# What the two classes do with features: theirs has no option for it.
NORMALIZE_OF_EXTRACTOR = {
    "ParakeetFeatureExtractor": "per_feature",
    "NemotronAsrStreamingFeatureExtractor": None,
}
FILTER_DTYPE = "mel_filters_dtype"  # of the streaming class
DROPPED_FEATURE_KEYS = {
    "padding_value": "fills audio behind a clip, which is masked",
    "padding_side": "audio is padded on the right",
    "return_attention_mask": "the mask is always returned",
    "feature_extractor_type": "read",
    "processor_class": "the class that joins it with a tokenizer",
    "auto_map": "no code is loaded",
    "mel_filters": "computed",
    "window": "computed",
    FILTER_DTYPE: "mapped",
}
EXTRACTOR_PINS: dict[str, tuple[Any, ...]] = {
    "window": ("hann",),
    "mag_power": (2.0,),
    "log": (True,),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2**-24,),
    "exact_pad": (False,),
    "frame_splicing": (1,),
    "padding_value": (0.0,),
    "min_frequency": (0.0,),
    "mel_norm": ("slaney",),
}


def extractor_from_transformers(extractor_dict: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Arguments of our feature extractor for one of theirs."""
    kind = extractor_dict.get("feature_extractor_type")
    if kind not in NORMALIZE_OF_EXTRACTOR:
        raise ValueError(
            f"{source}: feature_extractor_type={kind!r} is not supported; expected one of "
            f"{sorted(NORMALIZE_OF_EXTRACTOR)}."
        )
    known = {*FEATURE_KEYS, *DROPPED_FEATURE_KEYS}
    unknown = sorted(set(extractor_dict) - known)
    if unknown:
        name = unknown[0]
        raise ValueError(
            f"{source}: {name}={extractor_dict[name]!r} is not supported; expected none but {sorted(known)}."
        )
    side = extractor_dict.get("padding_side", "right")
    if side != "right":
        raise refuse(f"{source}: padding_side", side, "this package", "'right'")
    stored = {**FEATURE_DEFAULTS, **extractor_dict}
    values = {ours: stored[theirs] for theirs, ours in FEATURE_KEYS.items()}
    values["normalize"] = NORMALIZE_OF_EXTRACTOR[kind]
    values["filterbank_dtype"] = extractor_dict.get(FILTER_DTYPE, "float32")
    return values


def extractor_to_transformers(extractor: Any, family: Family) -> tuple[str, dict[str, Any]]:
    """The class and arguments of their feature extractor for ours."""
    name = "NemotronAsrStreamingFeatureExtractor" if family.is_streaming else "ParakeetFeatureExtractor"
    pins = {**EXTRACTOR_PINS, "normalize": (NORMALIZE_OF_EXTRACTOR[name],)}
    pins["max_frequency"] = (None, extractor.sampling_rate / 2)
    if not family.is_streaming:
        pins["filterbank_dtype"] = ("float32",)
    for option, accepted in pins.items():
        value = getattr(extractor, option)
        if value not in accepted:
            raise refuse(option, value, name, " or ".join(map(repr, accepted)))
    for option in ("mel_filters", "window_values"):
        if getattr(extractor, option) is not None:
            raise refuse(option, "an array", name, "None: it computes its own")
    values = {theirs: getattr(extractor, ours) for theirs, ours in FEATURE_KEYS.items()}
    if family.is_streaming and extractor.filterbank_dtype != "float32":
        values[FILTER_DTYPE] = extractor.filterbank_dtype
    return name, values
