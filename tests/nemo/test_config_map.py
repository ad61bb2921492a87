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


def mapped_encoder(nemo_config, **options):
    config = nemo_config("ctc")
    config["encoder"] |= options
    return map_config(config).config


def mapped_front_end(nemo_config, **options):
    config = nemo_config("ctc")
    config["preprocessor"] |= options
    return map_config(config).feature_extractor_arguments


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
    ("options", "expected"),
    [
        ({"xscaling": False}, {"scale_input": False}),
        ({"use_bias": False}, {"attention_bias": False, "convolution_bias": False}),
        ({"feat_out": 24}, {"encoder_output_size": 24}),
        ({"feat_out": 16}, {"encoder_output_size": None}),
        ({"ff_expansion_factor": 2}, {"intermediate_size": 32}),
        ({"subsampling_conv_channels": -1}, {"subsampling_conv_channels": 16}),
        ({"subsampling_factor": 4}, {"subsampling_factor": 4}),
        ({"causal_downsampling": True}, {"causal_downsampling": True}),
        ({"subsampling": "stacking", "causal_downsampling": True}, {"causal_downsampling": False}),
        ({"subsampling": "stacking_norm", "subsampling_factor": 3}, {"subsampling_type": "stacking_norm"}),
        ({"subsampling": None}, {"subsampling_type": "none", "subsampling_factor": 1}),
        ({"subsampling": "vggnet", "subsampling_factor": 1}, {"subsampling_type": "none", "subsampling_factor": 1}),
        (
            {"reduction": "pooling", "reduction_position": 0, "reduction_factor": 2},
            {"reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 2},
        ),
        ({"reduction": "striding", "reduction_position": 0, "reduction_factor": 1}, {"reduction_type": None}),
        ({"reduction": None, "reduction_position": None, "reduction_factor": 2}, {"reduction_factor": 1}),
        ({"untie_biases": False}, {"tie_position_biases": True}),
        ({"untie_biases": False, "self_attention_model": "abs_pos"}, {"tie_position_biases": False}),
        (
            {"self_attention_model": "rel_pos_local_attn", "att_context_size": [64, 32], "global_tokens": 1},
            {
                "position_embedding_type": "rel_pos_local_attn",
                "attention_context": [64, 32],
                "num_global_tokens": 1,
            },
        ),
        ({"att_context_size": [70, 13]}, {"attention_context": [70, 13], "attention_contexts": None}),
        (
            {"att_context_style": "chunked_limited", "att_context_size": [[70, 13], [70, 0]]},
            {"attention_context": [70, 13], "attention_contexts": [[70, 13], [70, 0]]},
        ),
        (
            {"att_context_style": "chunked_limited_with_rc", "att_context_size": [[70, 13]]},
            {"attention_context": [-1, -1, -1], "attention_contexts": None},
        ),
        ({"conv_norm_type": "layer_norm"}, {"conv_norm_type": "layer_norm", "conv_norm_groups": None}),
        ({"conv_norm_type": "group_norm4"}, {"conv_norm_type": "group_norm", "conv_norm_groups": 4}),
        ({"conv_context_size": "causal"}, {"conv_context": [4, 0]}),
        ({"conv_context_size": [3, 1]}, {"conv_context": [3, 1]}),
        ({"dropout": 0.3}, {"dropout": 0.3, "activation_dropout": 0.3}),
        ({"dropout_emb": 0.2, "dropout_att": 0.4}, {"dropout_positions": 0.2, "attention_dropout": 0.4}),
        (
            {"stochastic_depth_drop_prob": 0.2, "stochastic_depth_mode": "uniform", "stochastic_depth_start_layer": 2},
            {"layerdrop": 0.2, "layerdrop_mode": "uniform", "layerdrop_start_layer": 2},
        ),
    ],
)
def test_encoder_options(nemo_config, options, expected):
    config = mapped_encoder(nemo_config, **options)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling_conv_chunking_factor": 4},
        {"conv_context_style": "dcc"},
        {"use_pytorch_sdpa": True, "use_pytorch_sdpa_backends": ["MATH"]},
        {"sync_max_audio_length": False},
        {"pos_emb_max_len": 100},
        {"att_context_probs": [1.0]},
    ],
)
def test_options_without_influence_never_stop_a_conversion(nemo_config, options):
    assert mapped_encoder(nemo_config, **options) == mapped_encoder(nemo_config)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window_size": None, "n_window_size": 400}, {"win_length": 400}),
        ({"window_size": 0.032, "window_stride": 0.016, "n_fft": None}, {"win_length": 512, "hop_length": 256}),
        ({"window_size": 0.04, "n_fft": None}, {"win_length": 640, "n_fft": 1024}),
        ({"normalize": "NA"}, {"normalize": None}),
        ({"normalize": None}, {"normalize": None}),
        ({"normalize": "all_features"}, {"normalize": "all_features"}),
        ({"preemph": None}, {"preemphasis": None}),
        ({"highfreq": 0}, {"max_frequency": None}),
        ({"lowfreq": 20, "highfreq": 7600}, {"min_frequency": 20, "max_frequency": 7600}),
        ({"log_zero_guard_value": "1e-6"}, {"log_zero_guard_value": 1e-6}),
        ({"log_zero_guard_value": "eps", "log_zero_guard_type": "clamp"}, {"log_zero_guard_value": "eps"}),
        ({"pad_to": -1}, {"pad_to": 0}),
        ({"mel_norm": None, "mag_power": 1.0}, {"mel_norm": None, "mag_power": 1.0}),
        ({"stft_conv": True, "use_torchaudio": True, "dither": 0.5}, {"feature_size": 16}),
    ],
)
def test_front_end_options(nemo_config, options, expected):
    arguments = mapped_front_end(nemo_config, **options)
    assert {name: arguments[name] for name in expected} == expected


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
        ("decoding", "strategy", "beam", "'greedy' or 'greedy_batch'"),
        ("decoding", "big_blank_durations", [2], r"None or \[\]"),
        ("decoding", "temperature", 2.0, "1.0"),
        ("decoding", "model_type", "multiblank", "any other, such as 'rnnt' or 'tdt'"),
        ("decoding.greedy", "ngram_lm_model", "lm.arpa", "None"),
        ("decoding.greedy", "boosting_tree", {"key_phrases_list": ["nemo"]}, "no phrases"),
        ("decoding.greedy", "boosting_tree", "phrases.txt", "a value of the right kind"),
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
    config = nemo_config("ctc") | {"decoder": {"a": 1}, "transf_decoder": {"b": 2}, "sample_rate": 16000}
    for target in ("models.EncDecMultiTaskModel", "ssl_models.EncDecDenoiseMaskedTokenPredModel", None):
        mapped = map_config(config | {"target": target})
        assert (mapped.family, mapped.architecture, type(mapped.config)) == (
            "encoder",
            "FastConformerModel",
            FastConformerConfig,
        )
        assert mapped.dropped["decoder"] == "not of the encoder"
    with pytest.raises(ValueError, match="sample_rate=8000 is not supported"):
        map_config(config | {"target": "EncDecMultiTaskModel", "sample_rate": 8000})


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


@pytest.mark.parametrize(
    ("greedy", "expected"),
    [
        ({"max_symbols": 3}, 3),
        ({"max_symbols_per_step": 4}, 4),
        ({"max_symbols": 3, "max_symbols_per_step": 4}, 3),
        ({"max_symbols": None, "max_symbols_per_step": 4}, 4),
        ({}, 10),
        (None, 10),
    ],
)
def test_most_symbols(nemo_config, greedy, expected):
    config = nemo_config("rnnt")
    config["decoding"]["greedy"] = greedy
    assert map_config(config).config.max_symbols_per_step == expected
    if greedy is None:
        del config["decoding"]
        assert map_config(config).config.max_symbols_per_step == expected


def test_durations_of_the_decoding_where_the_loss_has_none(nemo_config):
    config = nemo_config("tdt")
    config["decoding"]["durations"] = [0, 1, 2, 3]
    for loss in ({"loss_name": "tdt_pytorch"}, None):
        config["loss"] = loss
        assert map_config(config).config.durations == [0, 1, 2, 3]
    config["decoding"]["durations"] = []
    with pytest.raises(ValueError, match=r"joint\.num_extra_outputs=4 is not supported; expected the number of dur"):
        map_config(config)


def test_stateless_prediction_network(nemo_config):
    config = nemo_config("rnnt")
    config["decoder"] = {
        "_target_": "nemo.collections.asr.modules.StatelessTransducerDecoder",
        "context_size": 3,
        "normalization_mode": "layer",
        "vocab_size": 28,
        "prednet": {"pred_hidden": 12, "dropout": 0.0},
    }
    mapped = map_config(config).config
    assert (mapped.decoder_type, mapped.decoder_context_size, mapped.decoder_layer_norm) == ("stateless", 3, True)


def test_placeholder_number_of_classes_is_the_vocabulary(nemo_config):
    config = nemo_config("ctc")
    config["decoder"]["num_classes"] = -1
    assert map_config(config).config.vocab_size == 29
    config["decoder"]["vocabulary"] = []
    with pytest.raises(ValueError, match=r"decoder\.num_classes=-1 is not supported; expected the number of classes"):
        map_config(config)


def test_sections_in_the_form_of_nemo_before_1_0(nemo_config):
    config = nemo_config("ctc")
    new = map_config(config)
    for name in ("preprocessor", "encoder", "decoder"):
        parameters = config[name]
        config[name] = {"cls": parameters.pop("_target_"), "params": parameters}
    assert map_config(config).config == new.config


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_a_fate(name):
    for key, row in TABLES[name].items():
        assert isinstance(row, Map | Read | Pin | Check | Drop | Refuse), key
        if isinstance(row, Check | Drop):
            assert row.reason, key


PROMPT_DEFAULTS = {"initialize_prompt_feature": True, "prompt_dictionary": {"en-US": 0, "auto": 101}}


def test_language_prompts(nemo_config):
    config = nemo_config("rnnt") | {"target": "a.EncDecRNNTBPEModelWithPrompt", "model_defaults": PROMPT_DEFAULTS}
    mapped = map_config(config).config
    assert (mapped.num_prompts, mapped.default_language) == (128, "auto")
    assert mapped.prompt_languages == {"en-US": 0, "auto": 101}
    config["model_defaults"] = {**PROMPT_DEFAULTS, "num_prompts": 3, "prompt_dictionary": {"de": 2}}
    mapped = map_config(config).config
    assert (mapped.num_prompts, mapped.default_language, mapped.prompt_languages) == (3, None, {"de": 2})
    config["model_defaults"] = {**PROMPT_DEFAULTS, "initialize_prompt_feature": False}
    assert map_config(config).config.num_prompts == 0
    # NeMo's other classes do not read them.
    assert map_config(nemo_config("rnnt") | {"model_defaults": PROMPT_DEFAULTS}).config.num_prompts == 0


@pytest.mark.parametrize(("languages", "name"), [({}, ""), (None, ""), ({False: 1}, ".False"), ({"de": "1"}, ".de")])
def test_prompts_without_languages_are_refused(nemo_config, languages, name):
    defaults = {**PROMPT_DEFAULTS, "prompt_dictionary": languages}
    config = nemo_config("rnnt") | {"target": "a.EncDecRNNTBPEModelWithPrompt", "model_defaults": defaults}
    with pytest.raises(ValueError, match=re.escape(f"model_defaults.prompt_dictionary{name}=")):
        map_config(config)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"spk_kernel_layers": [0, 1]}, (True, True)),
        ({"spk_kernel_layers": [0], "add_bg_spk_kernel": False}, (True, False)),
        ({"spk_kernel_layers": [2]}, (False, False)),
        ({}, (False, False)),
    ],
)
@pytest.mark.parametrize("encoder_only", [False, True])
def test_speaker_kernels(nemo_config, options, expected, encoder_only):
    config = nemo_config("rnnt") | {"target": "a.EncDecMultiTalkerRNNTBPEModel", "spk_kernel_type": "ff", **options}
    mapped = map_config(config, encoder_only=encoder_only).config
    assert (mapped.has_speaker_kernel, mapped.has_background_kernel) == expected
    with pytest.raises(ValueError, match=r"spk_kernel_layers=\[0, 9\] is not supported; expected numbers of blocks"):
        map_config(config | {"spk_kernel_layers": [0, 9]}, encoder_only=encoder_only)
    if options.get("spk_kernel_layers"):
        with pytest.raises(ValueError, match=r"spk_kernel_layers=.* expected those of the weights, \[7\]"):
            map_config(config, tensor_names=["spk_kernels.7.0.weight"], encoder_only=encoder_only)
    config |= {"spk_kernel_type": "mha", "spk_kernel_layers": [0]}
    with pytest.raises(ValueError, match="spk_kernel_type='mha' is not supported; expected 'ff'"):
        map_config(config, encoder_only=encoder_only)


LANGUAGE_ID_VALUES = {
    "lang_id_prompt_kernel": {"hidden": 32},
    "num_lang_id_prompts": 128,
    "lang_id_prompt_dictionary": {"en": 0},
    "initialize_lang_id_prompt": True,
}


@pytest.mark.parametrize("key", LANGUAGE_ID_VALUES)
@pytest.mark.parametrize("section", ["encoder", "model_defaults", None])
@pytest.mark.parametrize("kind", ["ctc", "tdt"])
def test_offline_language_prompts_are_refused_by_name(nemo_config, key, section, kind):
    config = nemo_config(kind)
    place = config if section is None else config.setdefault(section, {})
    name = key if section is None else f"{section}.{key}"
    place[key] = LANGUAGE_ID_VALUES[key]
    with pytest.raises(ValueError, match="offline language prompts") as raised:
        map_config(config, "some.nemo")
    message = str(raised.value)
    assert message.startswith(f"{name}={LANGUAGE_ID_VALUES[key]!r} is not supported; expected null or false")
    assert "not supported yet" in message
    assert message.endswith("(in some.nemo).")
    for off in (None, False, 0, {}, ""):
        place[key] = off
        assert map_config(config).dropped.get(name) == "switched off"


def test_offline_language_prompts_that_are_switched_off_may_have_options(nemo_config):
    config = nemo_config("tdt")
    config["model_defaults"] = {**LANGUAGE_ID_VALUES, "initialize_lang_id_prompt": False}
    assert map_config(config).family == "tdt"


def test_language_prompts_after_the_encoder_are_left_out_with_the_heads(nemo_config):
    config = nemo_config("tdt") | {"model_defaults": LANGUAGE_ID_VALUES, "lang_id_prompt_kernel": {"hidden": 32}}
    assert map_config(config, encoder_only=True).dropped["lang_id_prompt_kernel"] == "not of the encoder"
    config["encoder"]["num_lang_id_prompts"] = 128
    with pytest.raises(ValueError, match=r"encoder\.num_lang_id_prompts=128 is not supported"):
        map_config(config, encoder_only=True)
