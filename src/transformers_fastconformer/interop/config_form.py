"""Configurations of Transformers' classes and ours, both ways, by the tables of `config_tables`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..checkpoints.key_table import Refusal, SectionReader, Values, check_pins, write_section
from ..configuration_fastconformer import FastConformerConfig, FastConformerRNNTConfig, FastConformerTDTConfig
from ..configuration_multitask import FastConformerMultitaskConfig
from ..validation import reading
from .canary_form import READ_OPTIONS, read_decoder, write_decoder
from .config_tables import (
    AUTOMATIC_LANGUAGE,
    BLANK_KEYS,
    DECODING_ONLY,
    DEFAULT_PROMPT,
    ENCODER,
    GENERIC_KEYS,
    HEADS,
    NO_PROMPTS,
    OFFLINE_PINS,
    PROMPT_WIDTH,
    STREAMING_PINS,
    TDT_PINS,
    TRAINING_ONLY,
    TRANSDUCER_PINS,
    encoder_table,
)
from .families import FAMILIES, FAMILY_OF_TYPE, Family
from .refusals import refuse_reading, refuse_writing

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
        ValueError: for a model type that is not one of theirs, a key that is not known, and a value that is not
            accepted.
    """
    with reading(source, "the configuration of a class of Transformers"):
        return _read_config(config_dict, processor_dict or {}, source)


def _read_config(
    config_dict: Mapping[str, Any], processor_dict: Mapping[str, Any], source: str
) -> tuple[Family, FastConformerConfig]:
    model_type = config_dict.get("model_type")
    family = FAMILY_OF_TYPE.get(str(model_type))
    if family is None:
        raise ValueError(
            f"{source}: model_type={model_type!r} is not supported; expected one of {sorted(FAMILY_OF_TYPE)}."
        )
    reader = SectionReader(refuse_reading(source), GENERIC_KEYS)
    options: Values = {}
    head: Values = {}
    section: Any = config_dict
    if not family.is_encoder_alone:
        section = config_dict.get("encoder_config") or {}
        if not isinstance(section, Mapping):
            raise reader.refuse("encoder_config", section, "a section of values")
        options, head = reader.apply(config_dict, HEADS[family.model_type], "")
        _check_blank(head, family, reader.refuse)
    options |= _map_encoder(section, family, processor_dict, reader)
    if family.has_prompts:
        options |= _map_prompts(head, options["hidden_size"], processor_dict, reader.refuse)
    if family.is_multitask:
        options |= read_decoder(config_dict.get("decoder_config"), options, reader)
    return family, family.config_class(**options)


def _map_encoder(
    section: Mapping[str, Any], family: Family, processor_dict: Mapping[str, Any], reader: SectionReader
) -> Values:
    found_type = section.get("model_type", family.encoder_type)
    if found_type != family.encoder_type:
        raise reader.refuse("encoder_config.model_type", found_type, repr(family.encoder_type))
    options, stored = reader.apply(section, encoder_table(family.model_type), "")
    options["dropout_pre_encoder"] = options["dropout"]
    if options["layerdrop"]:
        options["layerdrop_mode"] = "uniform"
    if family.is_streaming:
        options |= _streaming_options(stored, processor_dict)
    return options


def _streaming_options(stored: Values, processor_dict: Mapping[str, Any]) -> Values:
    """Options of ours for what a streaming encoder of theirs always is, and for its contexts."""
    left_frames, right_frames = stored["sliding_window"] - 1, stored["default_num_lookahead_tokens"]
    options: Values = {
        "causal_downsampling": True,
        "conv_norm_type": "layer_norm",
        "conv_context": [stored["conv_kernel_size"] - 1, 0],
        "attention_context_style": "chunked_limited",
        "attention_context": [left_frames, right_frames],
    }
    look_aheads = processor_dict.get("supported_num_lookahead_tokens")
    if look_aheads is not None:
        options["attention_contexts"] = [[left_frames, look_ahead] for look_ahead in look_aheads]
    return options


def _check_blank(head: Values, family: Family, refuse: Refusal) -> None:
    key = BLANK_KEYS.get(family.model_type)
    if key is not None and head[key] != head["vocab_size"] - 1:
        raise refuse(key, head[key], f"{head['vocab_size'] - 1}, the last class, as the blank")


def _map_prompts(head: Values, hidden_size: int, processor_dict: Mapping[str, Any], refuse: Refusal) -> Values:
    if head[PROMPT_WIDTH] != 2 * hidden_size:
        raise refuse(PROMPT_WIDTH, head[PROMPT_WIDTH], f"{2 * hidden_size}, twice hidden_size")
    number = head[DEFAULT_PROMPT]
    # Only the processor knows the codes.
    languages = processor_dict.get("prompt_dictionary") or {AUTOMATIC_LANGUAGE: number}
    codes = sorted(
        (code for code in languages if languages[code] == number), key=lambda code: code != AUTOMATIC_LANGUAGE
    )
    return {"prompt_languages": dict(languages), "default_language": codes[0] if codes else None}


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
    is_hybrid = isinstance(config, FastConformerRNNTConfig) and config.has_ctc_head
    if head not in (None, "ctc", "transducer"):
        raise ValueError(f"head={head!r} is not supported; expected 'ctc', 'transducer' or None.")
    if is_hybrid and head is None:
        raise ValueError(
            "has_ctc_head=True is not supported by Transformers, which has no class with two heads; expected "
            "head='transducer' or head='ctc', to write one of them."
        )
    if head is not None and not is_hybrid:
        raise ValueError(f"head={head!r} is not supported; expected None, as this checkpoint does not have two heads.")
    has_prompts = isinstance(config, FastConformerRNNTConfig) and config.num_prompts > 0
    by_class = {family.config_class.model_type: family for family in _written(config.causal_downsampling, has_prompts)}
    family = by_class.get("fastconformer_ctc" if head == "ctc" else config.model_type)
    if family is None:
        have = ", ".join(sorted(family.class_name for family in by_class.values()))
        raise ValueError(
            f"causal_downsampling=True with model_type={config.model_type!r}"
            f"{' and head=' + repr(head) if head else ''} is not supported by Transformers; expected False, or a "
            f"model for one of {have}."
        )
    return family


def _written(is_streaming: bool, has_prompts: bool) -> list[Family]:
    """Classes for one kind of encoder; with prompts those that have them come last, and so win in a dictionary."""
    found = [family for family in FAMILIES if family.is_streaming == is_streaming]
    return [family for family in found if not family.has_prompts] + [
        family for family in found if family.has_prompts and has_prompts
    ]


def config_to_transformers(config: FastConformerConfig, head: str | None = None) -> tuple[Family, Values]:
    """
    Their configuration, as the arguments of their class, for one of ours.

    Args:
        config: Our configuration.
        head: The head of a hybrid to write, see `family_of_config`.

    Raises:
        ValueError: naming the first option that their class cannot express, its value and what is accepted.
    """
    family = family_of_config(config, head)
    refuse = refuse_writing(family.class_name)
    encoder = _write_encoder(config, family, refuse)
    if family.is_encoder_alone:
        return family, encoder
    values = write_section(HEADS[family.model_type], partial(getattr, config))
    values["encoder_config"] = {**encoder, "model_type": family.encoder_type}
    if isinstance(config, FastConformerMultitaskConfig):
        values["decoder_config"] = write_decoder(config, refuse)
        return family, values
    values["pad_token_id"] = values["vocab_size"] - 1
    if "ctc_loss_reduction" in HEADS[family.model_type]:
        # Theirs has no other than these two; it is only of training.
        values["ctc_loss_reduction"] = "sum" if config.ctc_loss_reduction == "sum" else "mean"
    if isinstance(config, FastConformerRNNTConfig):
        if head == "ctc":
            check_pins(NO_PROMPTS, partial(getattr, config), refuse)
        else:
            values |= _write_transducer(config, values, family, refuse)
    return family, values


def _write_encoder(config: FastConformerConfig, family: Family, refuse: Refusal) -> Values:
    check_pins(STREAMING_PINS if family.is_streaming else OFFLINE_PINS, partial(getattr, config), refuse)
    if config.encoder_output_size not in (None, config.hidden_size):
        raise refuse("encoder_output_size", config.encoder_output_size, f"None or {config.hidden_size}")
    encoder = write_section(ENCODER, partial(getattr, config))
    if config.layerdrop_mode != "uniform":
        encoder["layerdrop"] = 0.0
    kernel_size = config.conv_kernel_size
    if family.is_streaming:
        left_frames, right_frames = config.attention_context
        if min(left_frames, right_frames) < 0:
            raise refuse("attention_context", config.attention_context, "limits of 0 or more on both sides")
        expected_context = [kernel_size - 1, 0]
        encoder |= {"sliding_window": left_frames + 1, "default_num_lookahead_tokens": right_frames}
    else:
        expected_context = [kernel_size // 2, kernel_size // 2]
        if any(frames != -1 for frames in config.attention_context):
            raise refuse("attention_context", config.attention_context, "[-1, -1], no limit")
        if config.num_mel_bins % config.subsampling_factor:
            expected = f"a multiple of subsampling_factor={config.subsampling_factor}"
            raise refuse("num_mel_bins", config.num_mel_bins, expected)
    if list(config.conv_padding) != expected_context:
        raise refuse("conv_context", config.conv_context, f"{expected_context}")
    return encoder


def _write_transducer(config: FastConformerRNNTConfig, values: Values, family: Family, refuse: Refusal) -> Values:
    pins = TRANSDUCER_PINS if family.has_prompts else TRANSDUCER_PINS | NO_PROMPTS
    if isinstance(config, FastConformerTDTConfig):
        pins = pins | TDT_PINS
    check_pins(pins, partial(getattr, config), refuse)
    durations = list(values.get("durations", []))
    if durations != list(range(len(durations))):
        expected = f"{list(range(len(durations)))}: it takes the number of a class for the duration"
        raise refuse("durations", durations, expected)
    written: Values = {
        # Theirs has one width for prediction and joint network: the narrower one is filled up with zeros.
        "decoder_hidden_size": max(config.decoder_hidden_size, config.joint_hidden_size),
        "blank_token_id": config.vocab_size - 1,
    }
    if family.has_prompts:
        languages = config.prompt_languages or {}
        if config.default_language is None:
            raise refuse("default_language", None, f"one of {sorted(languages)}, as it must have one")
        written |= {DEFAULT_PROMPT: languages[config.default_language], PROMPT_WIDTH: 2 * config.hidden_size}
    return written


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
        name: f"only of training; {row.reason}"
        for name, row in TRAINING_ONLY.items()
        if hasattr(config, name) and getattr(config, name) not in (getattr(default, name), None)
    }
    if config.dropout_pre_encoder == config.dropout:
        left_out.pop("dropout_pre_encoder", None)
    without = ["layerdrop"] if not config.layerdrop else []
    if not issubclass(family.config_class, FastConformerRNNTConfig):
        of_transducers = ["decoder_dropout", "joint_", "sigma", "omega", "ctc_loss_weight", "transducer_", "fastemit"]
        without += of_transducers  # of the other head of a hybrid
    left_out = {name: reason for name, reason in left_out.items() if not name.startswith(tuple(without))}
    left_out |= {
        name: row.reason
        for name, row in DECODING_ONLY.items()
        if family.is_multitask and getattr(config, name) != READ_OPTIONS.get(name, getattr(default, name))
    }
    contexts = [list(context) for context in config.attention_contexts or []]
    if any(context[0] != config.attention_context[0] for context in contexts) or (
        contexts and not family.is_streaming
    ):
        left_out["attention_contexts"] = f"{family.class_name} has one left context, that of attention_context"
    return left_out
