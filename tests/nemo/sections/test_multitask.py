"""Sections of a Canary: defaults of NeMo, what is refused by name, and which search is read."""

from __future__ import annotations

import re
from typing import Any

import pytest
from multitask_archives import make_canary_config

from transformers_fastconformer.configuration_multitask import FastConformerMultitaskConfig
from transformers_fastconformer.nemo.config_map import map_config


def place_of(config: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    return config, key


def test_everything_is_mapped() -> None:
    mapped = map_config(make_canary_config())
    config = mapped.config
    assert isinstance(config, FastConformerMultitaskConfig)
    assert (mapped.family, mapped.architecture) == ("multitask", "FastConformerForMultitask")
    assert (config.vocab_size, config.decoder_hidden_size, config.num_decoder_layers) == (240, 12, 2)
    assert (config.num_decoder_attention_heads, config.decoder_intermediate_size) == (2, 20)
    assert (config.decoder_pre_norm, config.decoder_final_norm, config.decoder_activation) == (True, True, "relu")
    assert (config.decoder_max_positions, config.decoder_learned_positions) == (32, False)
    assert (config.num_transformer_encoder_layers, config.transformer_encoder_pre_norm) == (2, True)
    assert config.has_encoder_projection
    assert (config.max_generation_delta, config.decoding_strategy, config.beam_size) == (50, "beam", 1)
    assert config.beam_length_penalty == 0.0  # `len_pen` is not the key that NeMo 3.0 reads
    assert config.label_smoothing == 0.1
    assert config.prompt_format == "canary2"
    assert config.prompt_defaults == {"source_lang": "en", "pnc": True, "diarize": False}
    assert mapped.dropped["prompt_defaults.1.user_partial"]


@pytest.mark.parametrize(
    ("path", "option", "expected"),
    [
        ("transf_decoder.config_dict.pre_ln", "decoder_pre_norm", False),
        ("transf_decoder.config_dict.max_sequence_length", "decoder_max_positions", 512),
        ("transf_decoder.pre_ln_final_layer_norm", "decoder_final_norm", True),
        ("transf_encoder.num_attention_heads", "num_transformer_encoder_attention_heads", 1),
        ("transf_encoder", "num_transformer_encoder_layers", 0),
        ("decoding.strategy", "decoding_strategy", "beam"),
        ("decoding.beam.max_generation_delta", "max_generation_delta", -1),
        ("decoding", "max_generation_delta", -1),
        ("loss.label_smoothing", "label_smoothing", 0.0),
        ("prompt_defaults", "prompt_defaults", None),
    ],
)
def test_absent_keys_mean_what_they_mean_in_nemo(path: str, option: str, expected: Any) -> None:
    config = make_canary_config()
    place, key = place_of(config, path)
    del place[key]
    assert getattr(map_config(config).config, option) == expected


@pytest.mark.parametrize(
    ("path", "value", "option", "expected"),
    [
        ("transf_encoder.num_layers", 0, "num_transformer_encoder_layers", 0),
        ("transf_decoder.config_dict.hidden_act", "gelu", "decoder_activation", "gelu"),
        ("transf_decoder.config_dict.learn_positional_encodings", True, "decoder_learned_positions", True),
        ("transf_decoder.config_dict.attn_score_dropout", 0.2, "decoder_attention_dropout", 0.2),
        ("transf_decoder.config_dict.attn_layer_dropout", 0.3, "decoder_residual_dropout", 0.3),
        ("transf_encoder.ffn_dropout", 0.4, "transformer_encoder_feed_forward_dropout", 0.4),
        ("decoding.beam.beam_size", 4, "beam_size", 4),
        ("decoding.beam.length_penalty", 0.7, "beam_length_penalty", 0.7),
        ("prompt_defaults", [{"role": "user", "slots": {"itn": "1"}}], "prompt_defaults", {"itn": True}),
    ],
)
def test_values_are_mapped(path: str, value: Any, option: str, expected: Any) -> None:
    config = make_canary_config()
    place, key = place_of(config, path)
    place[key] = value
    assert getattr(map_config(config).config, option) == expected


def test_the_strategy_says_whose_limit_is_read() -> None:
    config = make_canary_config()
    config["decoding"] |= {"strategy": "greedy_batch", "greedy": {"max_generation_delta": 7, "temperature": None}}
    mapped = map_config(config).config
    assert (mapped.decoding_strategy, mapped.max_generation_delta) == ("greedy", 7)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("transf_decoder._target_", "a.get_other"),
        ("transf_decoder.encoder", True),
        ("transf_decoder.pretrained", True),
        ("transf_decoder.unknown", 1),
        ("transf_decoder.config_dict.hidden_act", "swish"),
        ("transf_decoder.config_dict.unknown", 1),
        ("transf_decoder.config_dict.pre_ln", "yes"),
        ("transf_encoder.mask_future", True),
        ("transf_encoder.unknown", 1),
        ("transf_encoder.hidden_size", 16),
        ("head.num_layers", 2),
        ("head.num_classes", None),
        ("head._target_", "a.BertPretrainingTokenClassifier"),
        ("loss.predict_last_k", 1),
        ("loss._target_", "a.SmoothedNLLLoss"),
        ("decoding.strategy", "tsd"),
        ("decoding.unknown", 1),
        ("decoding.beam.ngram_lm_model", "lm.arpa"),
        ("decoding.beam.boosting_tree", {"key_phrases_list": ["a"]}),
        ("model_defaults.asr_enc_hidden", 17),
        ("model_defaults.lm_dec_hidden", 16),
        ("prompt_format", "t5nmt"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(path: str, value: Any) -> None:
    config = make_canary_config()
    place, key = place_of(config, path)
    place[key] = value
    with pytest.raises(ValueError, match=rf"^{re.escape(path)}="):
        map_config(config)


def test_an_old_archive_is_told_by_its_sections() -> None:
    config = make_canary_config()
    del config["target"]
    assert map_config(config).family == "multitask"


def test_only_the_encoder_is_read_where_that_is_asked_for() -> None:
    config = make_canary_config()
    config["transf_decoder"]["config_dict"]["hidden_act"] = "swish"
    assert map_config(config, encoder_only=True).family == "encoder"
