"""A Canary as NeMo's: the sections of its configuration after the encoder, and the tensors that NeMo has besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..configuration_fastconformer import FastConformerConfig
from ..configuration_multitask import FastConformerMultitaskConfig
from ..decoding.prompts import FLAGS, token_of
from ..modeling.multitask_decoder import scaled_sinusoids
from ..processing_fastconformer import FastConformerProcessor
from .sections.multitask import PROMPT_MASK_KEY
from .sections.prompt_defaults import SLOT_NAMES, USER_ROLE
from .weight_map import POSITION_TABLE, TOKEN_TYPES

Section = dict[str, Any]

MULTITASK_CLASS = "nemo.collections.asr.models.aed_multitask_models.EncDecMultiTaskModel"
TOKENIZER_CLASSES = "nemo.collections.common.tokenizers.canary_tokenizer"
TIMES_KEY = "restore_timestamps_model"
# NeMo's default where the key is absent.
DEFAULT_TOKEN_TYPES = 2
TASK_NAMES = {"transcribe": "asr", "translate": "s2t_translation"}


def multitask_sections(config: FastConformerMultitaskConfig, processor: FastConformerProcessor) -> Section:
    """The keys that say what stands after the encoder."""
    width, strategy = config.decoder_hidden_size, config.decoding_strategy
    search: Section = {"max_generation_delta": config.max_generation_delta}
    if strategy == "beam":
        search |= {"beam_size": config.beam_size, "length_penalty": config.beam_length_penalty}
    return {
        "prompt_format": config.prompt_format,
        "prompt_defaults": _prompt_defaults(config),
        PROMPT_MASK_KEY: not processor.learns_prompt,
        "model_defaults": {"asr_enc_hidden": config.output_size, "lm_dec_hidden": width},
        "transf_encoder": {
            "num_layers": config.num_transformer_encoder_layers,
            "hidden_size": width,
            "pre_ln_final_layer_norm": config.transformer_encoder_final_norm,
            **transformer_layers(config, "transformer_encoder"),
        },
        "transf_decoder": {
            "pre_ln_final_layer_norm": config.decoder_final_norm,
            "config_dict": {
                "num_layers": config.num_decoder_layers,
                "hidden_size": width,
                "max_sequence_length": config.decoder_max_positions,
                "learn_positional_encodings": config.decoder_learned_positions,
                "embedding_dropout": config.decoder_embedding_dropout,
                **transformer_layers(config, "decoder"),
            },
        },
        "head": {"num_classes": config.vocab_size, "hidden_size": width, "num_layers": 1},
        "decoding": {"strategy": strategy, strategy: search},
        "loss": {"label_smoothing": config.label_smoothing},
    }


def multitask_fillers(config: FastConformerMultitaskConfig) -> Section:
    """Keys that NeMo wants besides, and those that only matter to training."""
    modules = "nemo.collections.asr.modules.transformer"
    # Its greedy search reads both without a default.
    greedy: Section = {"decoding": {"greedy": {"temperature": None, "n_samples": 1}}}
    return {
        **(greedy if config.decoding_strategy == "greedy" else {}),
        "target": MULTITASK_CLASS,
        "model_defaults": {"lm_enc_hidden": config.decoder_hidden_size},
        "transf_encoder": {"_target_": f"{modules}.transformer_encoders.TransformerEncoder", "mask_future": False},
        "transf_decoder": {
            "_target_": f"{modules}.get_nemo_transformer",
            "model_name": None,
            "pretrained": False,
            "encoder": None,
            "config_dict": {"vocab_size": None, "num_token_types": 0},
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "activation": "relu",
            "log_softmax": True,
            "dropout": 0.0,
            "use_transformer_init": True,
        },
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "pad_id": None,
        },
    }


def transformer_layers(config: FastConformerConfig, part: str) -> Section:
    """Keys that the layers of all transformers have, but for their width, from the options whose names have `part`."""
    return {
        "inner_size": getattr(config, f"{part}_intermediate_size"),
        "num_attention_heads": getattr(config, f"num_{part}_attention_heads"),
        "ffn_dropout": getattr(config, f"{part}_feed_forward_dropout"),
        "attn_score_dropout": getattr(config, f"{part}_attention_dropout"),
        "attn_layer_dropout": getattr(config, f"{part}_residual_dropout"),
        "hidden_act": getattr(config, f"{part}_activation"),
        "pre_ln": getattr(config, f"{part}_pre_norm"),
    }


def _prompt_defaults(config: FastConformerMultitaskConfig) -> list[Section] | None:
    """The turn of the user, in NeMo's words; plain ones, as it fails with tokens in aggregate tokenizers."""
    if not config.prompt_defaults:
        return None
    names = {ours: theirs for theirs, ours in SLOT_NAMES.items() if theirs != "taskname"}
    slots: Section = {} if config.prompt_format == "canary" else {"decodercontext": ""}
    for name, value in config.prompt_defaults.items():
        if name in FLAGS:
            written: Any = "yes" if value else "no"
        elif name == "task":
            written = TASK_NAMES[value]
        else:
            written = token_of(name, value) if name == "emotion" else value
        slots[names.get(name, name)] = written
    return [{"role": USER_ROLE, "slots": slots}]


def name_tokenizer_class(section: Mapping[str, Any], is_aggregate: bool) -> Section:
    """The section of a tokenizer, with NeMo's class for prompts where it names none."""
    if section.get("custom_tokenizer") is not None:
        return dict(section)
    name = "CanaryTokenizer" if is_aggregate else "CanaryBPETokenizer"
    custom: Section = {"_target_": f"{TOKENIZER_CLASSES}.{name}"}
    return {**section, "custom_tokenizer": custom | ({"tokenizers": None} if is_aggregate else {})}


def added_tensors(config: FastConformerMultitaskConfig, written: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """
    Tensors of NeMo's that are computed here, or not read by NeMo itself.

    Args:
        config: Our configuration.
        written: NeMo's.
    """
    tensors: dict[str, torch.Tensor] = {}
    width = config.decoder_hidden_size
    if not config.decoder_learned_positions:
        table = scaled_sinusoids(config.decoder_max_positions, width)
        tensors[POSITION_TABLE] = table.to(getattr(torch, config.decoder_positions_dtype))
    num_types = written["transf_decoder"]["config_dict"].get("num_token_types", DEFAULT_TOKEN_TYPES)
    if num_types:
        tensors[TOKEN_TYPES] = torch.zeros(num_types, width, dtype=torch.float32, device="cpu")
    return tensors
