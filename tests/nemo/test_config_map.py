"""NeMo's configuration to ours: defaults, every option, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from transformers_fastconformer import FastConformerConfig
from transformers_fastconformer.checkpoints.key_table import Check, Drop, Map, Pin, Read, Refuse
from transformers_fastconformer.nemo.config_map import ENCODER_ALONE, TOP_LEVEL, map_config
from transformers_fastconformer.nemo.sections.aux_ctc import AUX_CTC
from transformers_fastconformer.nemo.sections.decoder import (
    CTC_DECODER,
    LSTM_DECODER,
    PREDICTION_NETWORK,
    STATELESS_DECODER,
)
from transformers_fastconformer.nemo.sections.decoding import DECODING, GREEDY
from transformers_fastconformer.nemo.sections.encoder import ENCODER
from transformers_fastconformer.nemo.sections.joint import JOINT, JOINT_NETWORK
from transformers_fastconformer.nemo.sections.loss import LOSS, TDT_LOSS
from transformers_fastconformer.nemo.sections.preprocessor import PREPROCESSOR

SECTIONS: dict[str, tuple[str, ...]] = {
    "preprocessor": ("preprocessor",),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "decoder.prednet": ("decoder", "prednet"),
    "joint": ("joint",),
    "joint.jointnet": ("joint", "jointnet"),
    "decoding": ("decoding",),
    "decoding.greedy": ("decoding", "greedy"),
    "loss": ("loss",),
    "loss.tdt_kwargs": ("loss", "tdt_kwargs"),
    "aux_ctc": ("aux_ctc",),
    "aux_ctc.decoder": ("aux_ctc", "decoder"),
    "aux_ctc.decoding": ("aux_ctc", "decoding"),
}
TABLES = {
    "": TOP_LEVEL,
    "of an encoder": ENCODER_ALONE,
    "preprocessor": PREPROCESSOR,
    "encoder": ENCODER,
    "decoder": LSTM_DECODER,
    "decoder, stateless": STATELESS_DECODER,
    "decoder.prednet": PREDICTION_NETWORK,
    "joint": JOINT,
    "joint.jointnet": JOINT_NETWORK,
    "decoding": DECODING,
    "decoding.greedy": GREEDY,
    "loss": LOSS,
    "loss.tdt_kwargs": TDT_LOSS,
    "aux_ctc": AUX_CTC,
    "aux_ctc.decoder": CTC_DECODER,
}


def section_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    for key in SECTIONS[name]:
        config = config[key]
    return config


@pytest.mark.parametrize(
    ("kind", "architecture", "model_type"),
    [
        ("ctc", "FastConformerForCTC", "fastconformer_ctc"),
        ("rnnt", "FastConformerForRNNT", "fastconformer_rnnt"),
        ("tdt", "FastConformerForTDT", "fastconformer_tdt"),
        ("hybrid_rnnt_ctc", "FastConformerForRNNT", "fastconformer_rnnt"),
        ("hybrid_tdt_ctc", "ParakeetTDTForTDT", "fastconformer_tdt"),
    ],
)
@pytest.mark.parametrize("has_target", [True, False])
def test_families(nemo_config, kind, architecture, model_type, has_target):
    config = nemo_config(kind)
    if not has_target:
        del config["target"]
    mapped = map_config(config)
    assert (mapped.family, mapped.architecture) == (kind, architecture)
    assert mapped.config.model_type == model_type
    assert mapped.config.architectures == [architecture]
    assert mapped.config.vocab_size == 29
    assert mapped.config.blank_token_id == 28
    assert getattr(mapped.config, "has_ctc_head", False) is kind.startswith("hybrid")
    if "tdt" in kind:
        assert mapped.config.durations == [0, 2, 4, 8], "those of the loss, not the stale ones of the decoding"
        assert (mapped.config.sigma, mapped.config.omega) == (0.05, 0.0)
    if kind != "ctc":
        assert mapped.config.max_symbols_per_step == 5
        assert (mapped.config.decoder_hidden_size, mapped.config.num_decoder_layers) == (12, 2)
        assert mapped.config.joint_hidden_size == 20


def test_unread_auxiliary_section_does_not_make_a_hybrid(nemo_config):
    config = nemo_config("hybrid_tdt_ctc")
    config["target"] = "nemo.collections.asr.models.EncDecRNNTBPEModel"
    mapped = map_config(config)
    assert mapped.family == "tdt"
    assert mapped.dropped["aux_ctc"] == "EncDecRNNTBPEModel has no CTC head"
    del config["target"]
    assert map_config(config, tensor_names=["joint.enc.weight"]).family == "tdt"
    assert map_config(config, tensor_names=["ctc_decoder.decoder_layers.0.bias"]).family == "hybrid_tdt_ctc"


def test_defaults_of_absent_keys_are_those_of_nemo(nemo_config):
    config = nemo_config("ctc")
    config["encoder"] = {"feat_in": 64, "n_layers": 3, "d_model": 32}
    config["preprocessor"] = {}
    mapped = map_config(config)
    encoder = mapped.config
    assert encoder.scale_input is True
    assert (encoder.subsampling_type, encoder.subsampling_factor, encoder.subsampling_conv_channels) == (
        "striding",
        4,
        32,
    )
    assert encoder.conv_kernel_size == 31
    assert encoder.num_attention_heads == 4
    assert encoder.intermediate_size == 128
    assert (encoder.attention_bias, encoder.convolution_bias) == (True, True)
    assert (encoder.dropout, encoder.activation_dropout, encoder.attention_dropout) == (0.1, 0.1, 0.0)
    assert encoder.attention_context == [-1, -1]
    assert encoder.tie_position_biases is False
    assert mapped.feature_extractor_arguments == {
        "sampling_rate": 16000,
        "win_length": 320,
        "hop_length": 160,
        "window": "hann",
        "normalize": "per_feature",
        "n_fft": 512,
        "preemphasis": 0.97,
        "feature_size": 64,
        "min_frequency": 0,
        "max_frequency": None,
        "log": True,
        "log_zero_guard_type": "add",
        "log_zero_guard_value": 2**-24,
        "pad_to": 16,
        "padding_value": 0,
        "frame_splicing": 1,
        "exact_pad": False,
        "mag_power": 2.0,
        "mel_norm": "slaney",
    }


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("encoder", "conv_norm_type", "weight_norm", "'batch_norm', 'fused_batch_norm'"),
        ("encoder", "conv_norm_type", "group_norm", "'group_norm' and a number of groups"),
        ("encoder", "subsampling", "vggnet", "'dw_striding' or 'striding' or 'stacking' or 'stacking_norm'"),
        ("encoder", "subsampling", "striding_conv1d", "'dw_striding' or 'striding'"),
        ("encoder", "subsampling_conv_chunking_factor", -1, "1 or a power of 2"),
        ("encoder", "self_attention_model", "rope", "'rel_pos' or 'rel_pos_local_attn' or 'abs_pos'"),
        ("encoder", "att_context_style", "spiral", "'regular' or 'chunked_limited'"),
        ("encoder", "att_context_size", [1, 2, 3], r"\[left, right\] in frames"),
        ("encoder", "att_context_size", 5, "a value of the right kind"),
        ("encoder", "conv_context_style", "odd", "'regular' or 'dcc'"),
        ("encoder", "conv_context_size", "anticausal", r"'causal', null or \[left, right\]"),
        ("encoder", "n_layers", "2", "an integer"),
        ("encoder", "n_layers", True, "an integer"),
        ("encoder", "xscaling", 1, "true or false"),
        ("encoder", "ff_expansion_factor", 2.5, "an integer"),
        ("encoder", "feat_in", 80, "the 16 features of the preprocessor"),
        ("encoder", "d_model", "${model.d_model}", "a value"),
        ("encoder", "_target_", "nemo.collections.asr.modules.SqueezeformerEncoder", "'ConformerEncoder'"),
        ("preprocessor", "window", "none", "'hann' or 'hamming'"),
        ("preprocessor", "window", None, "'hann' or 'hamming'"),
        ("preprocessor", "n_window_size", 400, "null next to window_size=0.025"),
        ("preprocessor", "normalize", {"fixed_mean": [0.0], "fixed_std": [1.0]}, "'per_feature', 'all_features'"),
        ("preprocessor", "log_zero_guard_type", "subtract", "'add' or 'clamp'"),
        ("preprocessor", "mel_norm", "htk", "'slaney' or None"),
        ("preprocessor", "sample_rate", "16k", "an integer"),
        (
            "preprocessor",
            "_target_",
            "nemo.collections.asr.modules.AudioToMFCCPreprocessor",
            "'AudioToMelSpectrogramPreprocessor'",
        ),
        ("decoder", "normalization_mode", "layer", "None"),
        ("decoder", "blank_as_pad", "no", "true or false"),
        ("decoder.prednet", "rnn_hidden_size", 40, "-1"),
        ("joint", "num_extra_outputs", 2, "the number of durations, 4"),
        ("joint.jointnet", "activation", "gelu", "'relu' or 'tanh' or 'sigmoid'"),
        ("decoding", "strategy", "beam", "'greedy_batch' or 'greedy'"),
        ("decoding", "big_blank_durations", [2], r"None or \[\]"),
        ("decoding", "temperature", 2.0, "1.0"),
        ("decoding", "model_type", "multiblank", "any other, such as 'rnnt' or 'tdt'"),
        ("decoding.greedy", "ngram_lm_model", "lm.arpa", "None"),
        ("decoding.greedy", "boosting_tree", {"key_phrases_list": ["nemo"]}, "no phrases"),
        ("decoding.greedy", "boosting_tree", "phrases.txt", "a section"),
        ("decoding.greedy", "max_symbols", -1, "a positive integer"),
        ("loss", "loss_name", "multiblank_rnnt", "'default'"),
        ("loss.tdt_kwargs", "durations", [], "a list of durations in frames"),
        ("loss.tdt_kwargs", "durations", [0, 1, 2, "3"], "a list of integers"),
        ("aux_ctc.decoder", "num_classes", 30, "28, as the transducer"),
        ("aux_ctc.decoder", "add_blank", False, "True"),
    ],
)
def test_refused_values_are_named(nemo_config, name, key, value, expected):
    config = nemo_config("hybrid_tdt_ctc")
    section_of(config, name)[key] = value
    with pytest.raises(ValueError, match=expected) as raised:
        map_config(config, "some.nemo")
    shown = f"{name}.{key}={value!r}"
    assert str(raised.value).startswith(f"{shown} is not supported; expected ")
    assert str(raised.value).endswith("(in some.nemo).")


MISTYPED = [
    ("decoder", ["x"]),
    ("decoder", True),
    ("decoder", "text"),
    ("decoder.prednet", 5),
    ("decoding", ["x"]),
    ("decoding.durations", 5),
    ("decoding.greedy", "x"),
    ("decoding.greedy.boosting_tree", ["x"]),
    ("decoding.greedy.boosting_tree", 5),
    ("decoding.segment_seperators", [1]),
    ("decoding.word_seperator", 5),
    ("loss", 5),
    ("loss.tdt_kwargs", ["x"]),
    ("loss.tdt_kwargs.durations", 5),
    ("joint.num_extra_outputs", "x"),
    ("joint.vocabulary", 5),
    ("aux_ctc", "x"),
    ("aux_ctc.decoding", ["x"]),
    ("model_defaults", ["x"]),
    ("labels", 5),
    ("adapters", ["x"]),
    ("preprocessor", None),
    ("preprocessor.window_size", "x"),
    ("preprocessor.window_size", float("inf")),
    ("preprocessor.window_stride", 10**400),
    ("encoder.conv_norm_type", "group_norm" + "9" * 5000),
    ("encoder.d_model", 4 * 10**12),
    ("encoder.n_layers", 10**9),
    ("encoder.dropout", 10**400),
    ("encoder.att_context_size", {"a": 1}),
]


@pytest.mark.parametrize(("key", "value"), MISTYPED, ids=lambda part: str(part)[:30])
def test_values_of_another_kind_are_named(nemo_config, key, value):
    config = nemo_config("hybrid_tdt_ctc")
    *parents, last = key.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[last] = value
    with pytest.raises(ValueError, match="expected") as raised:
        map_config(config, "some.nemo")
    ours = {"n_layers": "num_hidden_layers", "d_model": "hidden_size"}
    assert ours.get(last, last) in str(raised.value)
    assert "some.nemo" in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_old_sections_are_typed_too(nemo_config):
    config = nemo_config("ctc")
    config["decoder"] = {"cls": "nemo.ConvASRDecoder", "params": ["x"]}
    with pytest.raises(ValueError, match=r"decoder\.params=\['x'\] is not supported; expected a section"):
        map_config(config)


@pytest.mark.parametrize("name", SECTIONS)
def test_unknown_keys_are_named_with_what_is_known(nemo_config, name):
    config = nemo_config("hybrid_tdt_ctc")
    section_of(config, name)["not_an_option"] = 7
    with pytest.raises(ValueError, match=re.escape(f"{name}.not_an_option=7 is not supported; expected one of [")):
        map_config(config)


def test_unread_sections_are_reported_and_stop_nothing(nemo_config):
    config = nemo_config("ctc") | {"some_old_section": {"a": 1}}
    dropped = map_config(config).dropped
    assert dropped["some_old_section"] == "not read by NeMo 3.0 either"
    assert dropped["train_ds"] == dropped["optim"] == "training only"


@pytest.mark.parametrize("key", ["prompt_kernel"])
def test_sections_that_bring_modules_along_are_refused(nemo_config, key):
    config = nemo_config("tdt") | {key: {"enabled": True}}
    with pytest.raises(ValueError, match=f"{key}={{'enabled': True}} is not supported; expected None"):
        map_config(config)


def test_any_decoder_is_left_out_where_the_encoder_alone_is_converted(nemo_config):
    config = nemo_config("ctc") | {"decoder": {"a": 1}, "quantizer": {"b": 2}, "sample_rate": 16000}
    for target in ("ssl_models.SpeechEncDecSelfSupervisedModel", None):
        mapped = map_config(config | {"target": target})
        assert (mapped.family, mapped.architecture, type(mapped.config)) == (
            "encoder",
            "FastConformerModel",
            FastConformerConfig,
        )
        assert mapped.dropped["decoder"] == "not of the encoder"
    with pytest.raises(ValueError, match="sample_rate=8000 is not supported"):
        map_config(config | {"target": "SpeechEncDecSelfSupervisedModel", "sample_rate": 8000})


def test_encoder_only_takes_any_class(nemo_config):
    config = nemo_config("tdt") | {"target": "nemo.SomeModel"}
    with pytest.raises(ValueError, match=r"target='nemo.SomeModel' is not supported; expected one of"):
        map_config(config)
    mapped = map_config(config, encoder_only=True)
    assert (mapped.family, mapped.nemo_class) == ("encoder", "SomeModel")


@pytest.mark.parametrize("section", ["preprocessor", "encoder", "decoder", "joint", "aux_ctc"])
def test_missing_sections_are_named(nemo_config, section):
    config = nemo_config("hybrid_rnnt_ctc")
    del config[section]
    with pytest.raises(ValueError, match=rf"{section}=(\(absent\)|None) is not supported; expected a"):
        map_config(config)


def test_unknown_classes_and_sampling_rates_are_refused(nemo_config):
    with pytest.raises(ValueError, match=r"target='a\.b\.EncDecSpeakerLabelModel' is not supported; expected one of"):
        map_config(nemo_config("ctc") | {"target": "a.b.EncDecSpeakerLabelModel"})
    with pytest.raises(ValueError, match=r"sample_rate=8000 is not supported; expected preprocessor\.sample_rate"):
        map_config(nemo_config("ctc") | {"sample_rate": 8000})


def test_shapes_that_no_model_has_name_the_archive(nemo_config):
    config = nemo_config("ctc")
    config["encoder"]["n_heads"] = 3
    with pytest.raises(ValueError, match=r"some\.nemo: (.|\n)*num_attention_heads=3 is not supported"):
        map_config(config, "some.nemo")


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_a_fate(name):
    for key, row in TABLES[name].items():
        assert isinstance(row, Map | Read | Pin | Check | Drop | Refuse), key
        if isinstance(row, Check | Drop):
            assert row.reason, key
