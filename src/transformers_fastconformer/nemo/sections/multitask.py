"""Canary's prompted decoder: `EncDecMultiTaskModel`, its transformer parts, its search, loss and prompts."""

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
    Row,
    Table,
    Values,
    boolean,
    integer,
    number,
    number_or_zero,
    one_of,
    section,
    sequence,
)
from ...configuration_multitask import PROMPT_FORMATS, TRANSFORMER_ACTIVATIONS
from ...validation import is_integer
from .common import REPORTING, SHAPE, TRAINING, NemoReader, check_class
from .decoding import PHRASE_KEYS
from .prompt_defaults import read_prompt_defaults

PROMPT_MASK_KEY = "use_loss_mask_for_prompt"
# Sections of the configuration beyond those of every model; what is only of training stands in `config_map`.
MULTITASK: dict[str, Row] = {
    "model_defaults": Read("MODEL_DEFAULTS", REQUIRED, check=section),
    "transf_encoder": Read("TRANSFORMER_ENCODER", check=section),
    "transf_decoder": Read("TRANSFORMER_DECODER", REQUIRED),
    "head": Read("HEAD", REQUIRED),
    "loss": Read("LOSS", check=section),
    "decoding": Read("MULTITASK_DECODING", check=section),
    "tokenizer": Read("tokenizer_map", check=section),
    "prompt_format": Read("map_multitask", REQUIRED),
    "prompt_defaults": Read("read_prompt_defaults", check=sequence),
    "label_smoothing": Drop("that of the loss is in its section"),
    PROMPT_MASK_KEY: Drop("the processor makes labels"),
    "restore_timestamps_model": Drop("a model of times is told by its members in the archive"),
    "multitask_metrics_cfg": Drop(REPORTING),
    "context_len_for_AR_decoding": Drop("NeMo 3.0 goes by the prompt"),
}

MODEL_DEFAULTS: Table = {
    "asr_enc_hidden": Read("_check_widths", REQUIRED, check=integer),
    "lm_enc_hidden": Drop(TRAINING),
    "lm_dec_hidden": Read("_check_widths", REQUIRED, check=integer),
}


def _transformer(part: str) -> dict[str, Row]:
    """Keys that the layers of both transformers have, with NeMo's defaults."""
    return {
        "num_layers": Map("num_layers", REQUIRED, integer),
        "hidden_size": Map("hidden_size", REQUIRED, integer),
        "inner_size": Map(f"{part}_intermediate_size", REQUIRED, integer),
        "ffn_dropout": Map(f"{part}_feed_forward_dropout", 0.0, number_or_zero),
        "attn_score_dropout": Map(f"{part}_attention_dropout", 0.0, number_or_zero),
        "attn_layer_dropout": Map(f"{part}_residual_dropout", 0.0, number_or_zero),
        "hidden_act": Map(f"{part}_activation", "relu", one_of(*TRANSFORMER_ACTIVATIONS)),
        "pre_ln": Map(f"{part}_pre_norm", False, boolean),
    }


TRANSFORMER_ENCODER: Table = {
    "_target_": check_class("TransformerEncoder"),
    **_transformer("transformer_encoder"),
    "num_attention_heads": Map("num_transformer_encoder_attention_heads", 1, integer),
    "mask_future": Pin((False, None)),
    "pre_ln_final_layer_norm": Map("transformer_encoder_final_norm", True, boolean),
}


def _is_decoder(value: Any, values: Values) -> None:
    if value:
        raise NotAcceptedError("null or false, which make a decoder")


TRANSFORMER_DECODER: Table = {
    "_target_": check_class("get_nemo_transformer"),
    "config_dict": Read("DECODER_LAYERS", REQUIRED),
    "pre_ln_final_layer_norm": Map("decoder_final_norm", True, boolean),
    "encoder": Check("which of NeMo's transformers it is", _is_decoder),
    "model_name": Pin((None,)),
    "pretrained": Pin((False, None)),
}
DECODER_LAYERS: Table = {
    **_transformer("decoder"),
    "num_attention_heads": Map("num_decoder_attention_heads", REQUIRED, integer),
    "max_sequence_length": Map("decoder_max_positions", 512, integer),
    "learn_positional_encodings": Map("decoder_learned_positions", False, boolean),
    "embedding_dropout": Map("decoder_embedding_dropout", 0.0, number_or_zero),
    "vocab_size": Drop("the classes of the head"),
    "num_token_types": Drop("NeMo's decoder does not read their embedding"),
    "mask_future": Drop("a decoder always does"),
    "arch": Drop("NeMo 3.0 does not read it for a decoder"),
}

HEAD: Table = {
    "_target_": check_class("TokenClassifier"),
    "num_classes": Map("vocab_size", REQUIRED, integer),
    "num_layers": Pin((1,)),
    "hidden_size": Drop(SHAPE),
    "activation": Drop("one layer has none"),
    "log_softmax": Drop("the best class is the same"),
    "dropout": Map("token_head_dropout", 0.0, number_or_zero),
    "use_transformer_init": Drop(TRAINING),
}

LOSS: Table = {
    "_target_": check_class("SmoothedCrossEntropyLoss"),
    "label_smoothing": Map("label_smoothing", 0.0, number_or_zero),
    "pad_id": Drop("the tokenizer's"),
    "predict_last_k": Pin((0, None)),
    "eps": Pin((1e-6,)),
    "per_token_reduction": Pin((True,)),
}


def _strategy(value: Any, values: Values) -> str:
    return "beam" if one_of("greedy", "greedy_batch", "beam")(value, values) == "beam" else "greedy"


def _no_phrases(value: Any, values: Values) -> None:
    if value is not None and any(section(value, values).get(key) for key in PHRASE_KEYS):
        raise NotAcceptedError("no phrases")


_FUSION: dict[str, Row] = {
    "ngram_lm_model": Pin((None, "")),
    "ngram_lm_alpha": Drop("the weight of ngram_lm_model"),
    "boosting_tree": Check("without phrases it changes nothing", _no_phrases),
    "boosting_tree_alpha": Drop("the weight of boosting_tree"),
    "preserve_alignments": Drop(REPORTING),
}
MULTITASK_DECODING: Table = {
    "strategy": Map("decoding_strategy", "beam", _strategy),
    "greedy": Read("MULTITASK_GREEDY", check=section),
    "beam": Read("MULTITASK_BEAM", check=section),
    "temperature": Drop("NeMo 3.0 does not read it"),
    "return_best_hypothesis": Drop(REPORTING),
    "preserve_alignments": Drop(REPORTING),
    "compute_hypothesis_token_set": Drop(REPORTING),
    "compute_langs": Drop(REPORTING),
    "confidence_cfg": Drop(REPORTING),
    "return_xattn_scores": Drop(REPORTING),
}
MULTITASK_GREEDY: Table = {
    **_FUSION,
    "temperature": Pin((None,)),
    "n_samples": Pin((1, None)),
    "max_generation_delta": Map("max_generation_delta", -1, integer),
    "preserve_token_confidence": Drop(REPORTING),
    "confidence_method_cfg": Drop(REPORTING),
}
MULTITASK_BEAM: Table = {
    **_FUSION,
    "beam_size": Map("beam_size", 1, integer),
    "length_penalty": Map("beam_length_penalty", 0.0, number),
    "max_generation_delta": Map("max_generation_delta", -1, integer),
    "len_pen": Drop("NeMo 3.0 reads length_penalty"),
    "search_type": Drop("NeMo 3.0 has one"),
    "return_best_hypothesis": Drop(REPORTING),
}


def map_multitask(sections: Values, encoder_width: int, reader: NemoReader) -> dict[str, Any]:
    """
    Arguments of all that stands after the encoder.

    Args:
        sections: The sections of the configuration.
        encoder_width: Width of the encoder's output.
        reader: Of the archive.
    """
    arguments, decoder = reader.apply(sections["transf_decoder"], TRANSFORMER_DECODER, "transf_decoder")
    layers, _ = reader.apply(decoder["config_dict"], DECODER_LAYERS, "transf_decoder.config_dict")
    arguments |= layers
    arguments["num_decoder_layers"] = arguments.pop("num_layers")
    width = arguments["decoder_hidden_size"] = arguments.pop("hidden_size")
    _check_widths(sections["model_defaults"], encoder_width, width, reader)
    arguments |= _map_transformer_encoder(sections["transf_encoder"], width, reader)
    arguments |= reader.apply(sections["head"], HEAD, "head")[0]
    arguments |= reader.apply(sections["loss"] or {}, LOSS, "loss")[0]
    arguments |= _map_decoding(sections["decoding"] or {}, reader)
    prompt_format = sections["prompt_format"]
    if prompt_format not in PROMPT_FORMATS:
        raise reader.refuse("prompt_format", prompt_format, f"one of {PROMPT_FORMATS}")
    arguments["prompt_format"] = prompt_format
    arguments["prompt_defaults"] = read_prompt_defaults(prompt_format, sections["prompt_defaults"], reader) or None
    return arguments


def _check_widths(defaults: Any, encoder_width: int, decoder_width: int, reader: NemoReader) -> None:
    """NeMo puts a projection after the encoder where these two numbers differ, so they must be the widths."""
    _, values = reader.apply(defaults, MODEL_DEFAULTS, "model_defaults")
    for key, width in (("asr_enc_hidden", encoder_width), ("lm_dec_hidden", decoder_width)):
        if values[key] != width:
            raise reader.refuse(f"model_defaults.{key}", values[key], f"the width of that part, which is {width}")


def _map_transformer_encoder(encoder_section: Any, width: int, reader: NemoReader) -> dict[str, Any]:
    """Arguments of the transformer encoder; without the section it has 0 layers."""
    num_layers = encoder_section.get("num_layers") if isinstance(encoder_section, Mapping) else None
    if encoder_section is None or (num_layers is not None and is_integer(num_layers) and num_layers <= 0):
        if encoder_section is not None:
            reader.dropped["transf_encoder"] = "it has no layers"
        return {}
    arguments, _ = reader.apply(encoder_section, TRANSFORMER_ENCODER, "transf_encoder")
    arguments["num_transformer_encoder_layers"] = arguments.pop("num_layers")
    found = arguments.pop("hidden_size")
    if found != width:
        raise reader.refuse("transf_encoder.hidden_size", found, f"that of the decoder, which is {width}")
    return arguments


def _map_decoding(decoding_section: Any, reader: NemoReader) -> dict[str, Any]:
    """Arguments of the search that the checkpoint asks for; the other one is checked and not read."""
    arguments, decoding = reader.apply(decoding_section, MULTITASK_DECODING, "decoding")
    of_greedy, _ = reader.apply(decoding["greedy"] or {}, MULTITASK_GREEDY, "decoding.greedy")
    of_beam, _ = reader.apply(decoding["beam"] or {}, MULTITASK_BEAM, "decoding.beam")
    read = of_beam if arguments["decoding_strategy"] == "beam" else of_greedy
    read["max_generation_delta"] = max(read["max_generation_delta"], -1)
    return arguments | read
