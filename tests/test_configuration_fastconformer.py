"""Configurations: what they accept, what they refuse and with which words, and that they survive their files."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from models import KINDS, build_config
from transformers import AutoConfig

from transformers_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)

CONFIG_CLASSES = (FastConformerConfig, FastConformerCTCConfig, FastConformerRNNTConfig, FastConformerTDTConfig)

REFUSED = [
    (FastConformerCTCConfig, {"vocab_size": 0}, "vocab_size=0"),
    (FastConformerCTCConfig, {"blank_token_id": 0}, "vocab_size - 1 = 1024"),
    (FastConformerCTCConfig, {"ctc_loss_reduction": "none"}, "ctc_loss_reduction='none'"),
    (FastConformerRNNTConfig, {"decoder_type": "transformer"}, "decoder_type='transformer'"),
    (FastConformerRNNTConfig, {"joint_activation": "gelu"}, "joint_activation='gelu'"),
    (FastConformerRNNTConfig, {"num_decoder_layers": 0}, "num_decoder_layers=0"),
    (FastConformerRNNTConfig, {"joint_dropout": 2}, "joint_dropout=2 .* a probability"),
    (FastConformerRNNTConfig, {"max_symbols_per_step": 0}, "max_symbols_per_step=0"),
    (FastConformerRNNTConfig, {"decoding_strategy": "beam"}, "decoding_strategy='beam'"),
    (FastConformerRNNTConfig, {"decoder_type": "stateless", "decoder_context_size": 0}, "decoder_context_size=0"),
    (FastConformerTDTConfig, {"durations": []}, "durations="),
    (FastConformerTDTConfig, {"durations": [0, -1]}, "durations="),
    (FastConformerTDTConfig, {"durations": [0, 1, 1]}, "distinct numbers of frames"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_of_weights_is_below_them_and_near(kind):
    wide = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4}
    config = build_config(kind, **wide)
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in KINDS[kind][0](config).parameters())
    assert 0.7 * num_parameters <= config.estimate_parameters() <= num_parameters


@pytest.mark.parametrize("subsampling", [("stacking", 4), ("striding", 2), ("dw_striding", 2), ("none", 8)])
def test_the_estimate_is_below_the_weights_of_every_front(subsampling):
    kind, factor = subsampling
    config = build_config("encoder", subsampling_type=kind, subsampling_factor=factor, num_hidden_layers=0)
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in KINDS["encoder"][0](config).parameters())
    assert config.estimate_parameters() <= num_parameters


@pytest.mark.parametrize(("config_class", "values", "message"), REFUSED)
def test_refuses_by_name_and_value(config_class, values, message):
    with pytest.raises(ValueError, match=message):
        config_class(**values)


@pytest.mark.parametrize(
    ("config_class", "name", "value"),
    [
        (FastConformerConfig, "hidden_size", "wide"),
        (FastConformerConfig, "hidden_size", 512.0),
        (FastConformerConfig, "scale_input", "yes"),
        (FastConformerConfig, "attention_context", 8),
        (FastConformerConfig, "attention_context", [8.5, 1]),
        (FastConformerConfig, "dropout", "0.1"),
        (FastConformerTDTConfig, "durations", ["0", "1"]),
        (FastConformerTDTConfig, "max_symbols_per_step", None),
    ],
)
def test_a_value_of_another_type_is_refused(config_class, name, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        config_class(**{name: value})
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        setattr(config_class(), name, value)


@pytest.mark.parametrize("config_class", CONFIG_CLASSES)
def test_defaults_are_accepted(config_class):
    config = config_class()
    assert config.output_size == 512
    assert config.conv_padding == (4, 4)
    assert config.mel_frames_per_encoder_frame == 8


def test_derived_values():
    config = FastConformerConfig(
        encoder_output_size=640,
        conv_context=[8, 0],
        reduction_type="pooling",
        reduction_factor=2,
        reduction_position=3,
    )
    assert config.output_size == 640
    assert config.conv_padding == (8, 0)
    assert config.mel_frames_per_encoder_frame == 16
    assert config.count_encoder_frames(1000) == 62
    assert FastConformerRNNTConfig(vocab_size=30).num_joint_outputs == 30
    assert FastConformerTDTConfig(vocab_size=30, durations=(0, 2, 4)).num_joint_outputs == 33


@pytest.mark.parametrize("factor", [1, 8])
def test_without_subsampling_a_mel_frame_is_an_encoder_frame(factor):
    config = FastConformerConfig(subsampling_type="none", subsampling_factor=factor)
    assert config.mel_frames_per_encoder_frame == 1
    assert config.count_encoder_frames(100) == 100


def test_kinds_of_positions():
    kinds = {
        name: FastConformerConfig(position_embedding_type=name, attention_context=[4, 4])
        for name in ("rel_pos", "rel_pos_local_attn", "abs_pos")
    }
    assert [name for name, config in kinds.items() if config.has_relative_positions] == [
        "rel_pos",
        "rel_pos_local_attn",
    ]
    assert [name for name, config in kinds.items() if config.has_local_attention] == ["rel_pos_local_attn"]


def test_blank_and_padding_are_the_last_class():
    config = FastConformerTDTConfig(vocab_size=30)
    assert (config.blank_token_id, config.pad_token_id) == (29, 29)
    assert FastConformerTDTConfig(vocab_size=30, pad_token_id=3).pad_token_id == 3


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_copies_keep_every_value(kind, tmp_path):
    config = build_config(kind, attention_context=[4, 2], conv_context=[4, 0], layerdrop=0.1)
    config.save_pretrained(tmp_path)

    def values(config):
        return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}

    for loaded in (
        type(config).from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert type(loaded) is type(config)
        assert values(loaded) == values(config)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == type(config).model_type


@pytest.mark.parametrize("kind", ["ctc", "rnnt_hybrid", "tdt"])
def test_the_encoder_reads_its_part_of_a_head(kind, tmp_path, recwarn, caplog):
    config = build_config(kind, attention_context=[4, 2], scale_input=False, encoder_output_size=10)
    config.save_pretrained(tmp_path)
    encoder_config = FastConformerConfig.from_pretrained(tmp_path)
    assert type(encoder_config) is FastConformerConfig
    for name, value in build_config("encoder").to_dict().items():
        if name not in ("model_type", "transformers_version"):
            assert getattr(encoder_config, name) == getattr(config, name), (name, value)
    assert not hasattr(encoder_config, "vocab_size")
    assert not recwarn.list
    assert not caplog.records


def test_a_bad_value_in_a_file_is_refused(tmp_path):
    build_config("tdt").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "conv_norm_type": "rms_norm"}))
    with pytest.raises(ValueError, match="conv_norm_type='rms_norm' is not supported"):
        AutoConfig.from_pretrained(tmp_path)
