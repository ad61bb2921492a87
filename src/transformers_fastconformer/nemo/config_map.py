"""
NeMo's model configuration to ours.

The tables say what becomes of every key: `Map` to an argument of ours, `Read` together with other keys, `Pin` to the
values under which our numbers are NeMo's, or `Drop` for a reason. A key that stands in no table, and a value that is
not accepted, is a `ValueError` that names it. Defaults are those of NeMo 3.0.0 for absent keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..configuration_fastconformer import (
    CONV_NORM_TYPES,
    JOINT_ACTIVATIONS,
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..frames import SUBSAMPLINGS, NoSubsampling, StridedSubsampling
from .adapters import check_adapters
from .archive import is_unresolved

Values = dict[str, Any]
Convert = Callable[[Any, Values], Any]
Check = Callable[[Any], bool]


class NotAcceptedError(Exception):
    """Raised by a converter; says what would be accepted."""


class _Required:
    def __repr__(self) -> str:
        return "(absent)"


REQUIRED = _Required()


def _as_is(value: Any, values: Values) -> Any:
    return value


@dataclass(frozen=True)
class Map:
    """
    A key that becomes arguments of ours.

    Args:
        targets: Names of the arguments; several names are several arguments. The converter gives a value, or for
            several names a tuple of them.
        default: Value that NeMo takes for an absent key.
        convert: From the key's value, and all values of the section with defaults, to that of the argument.
    """

    targets: str | tuple[str, ...]
    default: Any = REQUIRED
    convert: Convert = _as_is


@dataclass(frozen=True)
class Read:
    """A key that is read together with others, by the function named."""

    by: str
    default: Any = None


@dataclass(frozen=True)
class Pin:
    """A key that must have one of a few values, because we do what NeMo does for those alone."""

    accepted: tuple[Any, ...]


@dataclass(frozen=True)
class Drop:
    """A key without influence on inference, and why. `refused` are the values for which that is not so."""

    reason: str
    accepts: Check | None = None
    expected: str = ""


Row = Map | Read | Pin | Drop
Table = Mapping[str, Row]

TRAINING = "training only"
SPEED = "speed or memory only"
REPORTING = "metrics and logs only"
SHAPE = "a width that the weights are checked against"


# Converters


def _integer(value: Any, values: Values) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise NotAcceptedError("an integer")
    return value


def _boolean(value: Any, values: Values) -> bool:
    if not isinstance(value, bool):
        raise NotAcceptedError("true or false")
    return value


def _number(value: Any, values: Values) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 1e-5, without a point, as text
        try:
            return float(value)
        except ValueError:
            raise NotAcceptedError("a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotAcceptedError("a number")
    return value


def _optional_number(value: Any, values: Values) -> float | None:
    return None if value is None else _number(value, values)


def _number_or_zero(value: Any, values: Values) -> float:
    return 0.0 if value is None else _number(value, values)


def _one_of(*accepted: Any) -> Convert:
    def convert(value: Any, values: Values) -> Any:
        if value not in accepted or isinstance(value, bool):
            raise NotAcceptedError(" or ".join(repr(choice) for choice in accepted))
        return value

    return convert


def _negated(value: Any, values: Values) -> bool:
    return not _boolean(value, values)


# Front end: nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor


def _normalization(value: Any, values: Values) -> str | None:
    if value in (None, False, "", "NA"):
        return None
    if value not in ("per_feature", "all_features"):
        raise NotAcceptedError("'per_feature', 'all_features', 'NA' or null")
    return str(value)


def _log_guard(value: Any, values: Values) -> float | str:
    return value if value in ("eps", "tiny") else _number(value, values)


def _fft_samples(value: Any, values: Values) -> int | None:
    return _integer(value, values) if value else None


def _highest_frequency(value: Any, values: Values) -> float | None:
    return _number(value, values) if value else None


def _pad_to(value: Any, values: Values) -> int:
    return max(_integer(value, values), 0)


def _section_target(*class_names: str) -> Drop:
    return Drop(
        "the class that the tables here are of",
        accepts=lambda value: str(value).rsplit(".", 1)[-1] in class_names,
        expected=" or ".join(repr(name) for name in class_names),
    )


PREPROCESSOR: Table = {
    "_target_": _section_target("AudioToMelSpectrogramPreprocessor"),
    "sample_rate": Map("sampling_rate", 16000, _integer),
    "window_size": Read("_frame_samples", 0.02),
    "n_window_size": Read("_frame_samples"),
    "window_stride": Read("_frame_samples", 0.01),
    "n_window_stride": Read("_frame_samples"),
    "window": Map("window", "hann", _one_of("hann", "hamming", "blackman", "bartlett")),
    "normalize": Map("normalize", "per_feature", _normalization),
    "n_fft": Map("n_fft", None, _fft_samples),
    "preemph": Map("preemphasis", 0.97, _optional_number),
    "features": Map("feature_size", 64, _integer),
    "lowfreq": Map("min_frequency", 0, _number),
    "highfreq": Map("max_frequency", None, _highest_frequency),
    "log": Map("log", True, _boolean),
    "log_zero_guard_type": Map("log_zero_guard_type", "add", _one_of("add", "clamp")),
    "log_zero_guard_value": Map("log_zero_guard_value", 2**-24, _log_guard),
    "pad_to": Map("pad_to", 16, _pad_to),
    "pad_value": Map("padding_value", 0, _number),
    "frame_splicing": Map("frame_splicing", 1, _integer),
    "exact_pad": Map("exact_pad", False, _boolean),
    "mag_power": Map("mag_power", 2.0, _number),
    "mel_norm": Map("mel_norm", "slaney", _one_of("slaney", None)),
    "dither": Drop(TRAINING),
    "rng": Drop(TRAINING),
    "nb_augmentation_prob": Drop(TRAINING),
    "nb_max_freq": Drop(TRAINING),
    "use_torchaudio": Drop("NeMo 3.0 ignores it"),
    "stft_exact_pad": Drop("NeMo 3.0 ignores it"),
    "stft_conv": Drop("NeMo 3.0 ignores it"),
}


def _frame_samples(section: Values, refuse: Callable[[str, str], ValueError]) -> dict[str, int]:
    """Window and hop in samples: either is given in seconds or in samples, and seconds have defaults."""
    arguments = {}
    for name, seconds_key, samples_key in (
        ("win_length", "window_size", "n_window_size"),
        ("hop_length", "window_stride", "n_window_stride"),
    ):
        seconds, samples = section[seconds_key], section[samples_key]
        if seconds and samples:
            raise refuse(samples_key, f"null beside {seconds_key}={seconds!r}")
        if seconds:
            samples = int(_number(seconds, section) * section["sample_rate"])
        if isinstance(samples, bool) or not isinstance(samples, int) or samples <= 0:
            raise refuse(samples_key, f"a positive number of samples, or {seconds_key} in seconds")
        arguments[name] = samples
    return arguments


# Encoder: nemo.collections.asr.modules.ConformerEncoder


def _intermediate_size(value: Any, values: Values) -> int:
    return values["d_model"] * _integer(value, values)


def _encoder_output_size(value: Any, values: Values) -> int | None:
    if value is None or _integer(value, values) <= 0 or value == values["d_model"]:
        return None
    return int(value)


def _has_subsampling(values: Values) -> bool:
    return bool(values["subsampling"]) and values["subsampling_factor"] > 1


def _subsampling_type(value: Any, values: Values) -> str:
    if not _has_subsampling(values):
        return "none"
    return _one_of(*(name for name, kind in SUBSAMPLINGS.items() if kind is not NoSubsampling))(value, values)


def _subsampling_factor(value: Any, values: Values) -> int:
    return _integer(value, values) if _has_subsampling(values) else 1


def _subsampling_channels(value: Any, values: Values) -> int:
    return values["d_model"] if _integer(value, values) == -1 else value


def _causal_downsampling(value: Any, values: Values) -> bool:
    # Only the convolutions can be causal; NeMo ignores the key beside any other subsampling.
    kind = SUBSAMPLINGS[_subsampling_type(values["subsampling"], values)]
    return _boolean(value, values) and kind is StridedSubsampling


def _has_reduction(values: Values) -> bool:
    return bool(values["reduction"]) and values["reduction_factor"] > 1


def _reduction(value: Any, values: Values) -> tuple[str | None, int | None, int]:
    if not _has_reduction(values):
        return None, None, 1
    kind = _one_of("pooling", "striding")(value, values)
    return kind, values["reduction_position"], values["reduction_factor"]


def _tied_position_biases(value: Any, values: Values) -> bool:
    # NeMo 3.0 ties the biases with plain relative positions alone. Archives hold a copy in each layer all the same.
    return _negated(value, values) and values["self_attention_model"] == "rel_pos"


def _contexts(value: Any, values: Values) -> tuple[list[int], list[list[int]] | None]:
    """The context in use and, where there are several, all of them."""
    if values["att_context_style"] == "chunked_limited_with_rc":
        return [-1, -1, -1], None  # NeMo discards the configured one: full context until another is set
    if not value:
        return [-1, -1], None
    contexts = value if isinstance(value[0], list | tuple) else [value]
    for context in contexts:
        if len(context) != 2 or any(isinstance(side, bool) or not isinstance(side, int) for side in context):
            raise NotAcceptedError("[left, right] in frames, or a list of such pairs")
    contexts = [list(context) for context in contexts]
    return contexts[0], contexts if len(contexts) > 1 else None


def _conv_norm(value: Any, values: Values) -> tuple[str, int | None]:
    name = str(value)
    groups = name.removeprefix("group_norm")
    if name.startswith("group_norm") and groups.isdigit():
        if int(groups) == 0 or values["d_model"] % int(groups) != 0:
            raise NotAcceptedError(f"a number of groups that divides d_model={values['d_model']}")
        return "group_norm", int(groups)
    accepted = tuple(name for name in CONV_NORM_TYPES if name != "group_norm")
    if name not in accepted:
        raise NotAcceptedError(
            ", ".join(repr(choice) for choice in accepted) + " or 'group_norm' and a number of groups"
        )
    return name, None


def _conv_context(value: Any, values: Values) -> list[int] | None:
    if value is None:
        return None
    if value == "causal":
        return [values["conv_kernel_size"] - 1, 0]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise NotAcceptedError("'causal', null or [left, right] in frames")
    if sum(value) + 1 != values["conv_kernel_size"]:
        raise NotAcceptedError(f"frames that sum up to conv_kernel_size - 1 = {values['conv_kernel_size'] - 1}")
    return list(value)


def _twice(convert: Convert) -> Convert:
    def convert_twice(value: Any, values: Values) -> tuple[Any, Any]:
        return (convert(value, values),) * 2

    return convert_twice


ENCODER: Table = {
    "_target_": _section_target("ConformerEncoder", "ConformerEncoderAdapter"),
    "feat_in": Map("num_mel_bins", REQUIRED, _integer),
    "feat_out": Map("encoder_output_size", -1, _encoder_output_size),
    "n_layers": Map("num_hidden_layers", REQUIRED, _integer),
    "d_model": Map("hidden_size", REQUIRED, _integer),
    "n_heads": Map("num_attention_heads", 4, _integer),
    "ff_expansion_factor": Map("intermediate_size", 4, _intermediate_size),
    "use_bias": Map(("attention_bias", "convolution_bias"), True, _twice(_boolean)),
    "xscaling": Map("scale_input", True, _boolean),
    "causal_downsampling": Map("causal_downsampling", False, _causal_downsampling),
    "subsampling": Map("subsampling_type", "striding", _subsampling_type),
    "subsampling_factor": Map("subsampling_factor", 4, _subsampling_factor),
    "subsampling_conv_channels": Map("subsampling_conv_channels", -1, _subsampling_channels),
    "subsampling_conv_chunking_factor": Drop(
        SPEED,
        accepts=lambda value: isinstance(value, int) and value >= 1 and value & (value - 1) == 0,
        expected="1 or a power of 2",
    ),
    "reduction": Map(("reduction_type", "reduction_position", "reduction_factor"), None, _reduction),
    "reduction_position": Read("_reduction"),
    "reduction_factor": Read("_reduction", 1),
    "self_attention_model": Map(
        "position_embedding_type", "rel_pos", _one_of("rel_pos", "rel_pos_local_attn", "abs_pos")
    ),
    "untie_biases": Map("tie_position_biases", True, _tied_position_biases),
    "att_context_size": Map(("attention_context", "attention_contexts"), None, _contexts),
    "att_context_style": Map(
        "attention_context_style", "regular", _one_of("regular", "chunked_limited", "chunked_limited_with_rc")
    ),
    "att_context_probs": Drop(TRAINING),
    "att_chunk_context_size": Drop("the contexts that training draws from; inference takes the whole clip or is told"),
    "global_tokens": Map("num_global_tokens", 0, _integer),
    "global_tokens_spacing": Map("global_tokens_spacing", 1, _integer),
    "global_attn_separate": Map("global_attention_separate", False, _boolean),
    "conv_kernel_size": Map("conv_kernel_size", 31, _integer),
    "conv_norm_type": Map(("conv_norm_type", "conv_norm_groups"), "batch_norm", _conv_norm),
    "conv_context_size": Map("conv_context", None, _conv_context),
    "conv_context_style": Drop(
        TRAINING, accepts=lambda value: value in ("regular", "dcc"), expected="'regular' or 'dcc'"
    ),
    "dropout": Map(("dropout", "activation_dropout"), 0.1, _twice(_number)),
    "dropout_pre_encoder": Map("dropout_pre_encoder", 0.1, _number),
    "dropout_emb": Map("dropout_positions", 0.1, _number),
    "dropout_att": Map("attention_dropout", 0.0, _number),
    "stochastic_depth_drop_prob": Map("layerdrop", 0.0, _number),
    "stochastic_depth_mode": Map("layerdrop_mode", "linear", _one_of("linear", "uniform")),
    "stochastic_depth_start_layer": Map("layerdrop_start_layer", 1, _integer),
    "pos_emb_max_len": Drop("limits nothing: the table grows with the audio"),
    "use_pytorch_sdpa": Drop(SPEED),
    "use_pytorch_sdpa_backends": Drop(SPEED),
    "sync_max_audio_length": Drop(SPEED),
}


# Heads: ConvASRDecoder, RNNTDecoder, StatelessTransducerDecoder, RNNTJoint


def _num_ctc_classes(value: Any, values: Values) -> int:
    """Classes with the blank; a placeholder below 1 means the length of the vocabulary."""
    num_classes = _integer(value, values)
    if num_classes < 1:
        if not values["vocabulary"]:
            raise NotAcceptedError("the number of classes, or a vocabulary")
        num_classes = len(values["vocabulary"])
    return num_classes + 1


CTC_DECODER: Table = {
    "_target_": _section_target("ConvASRDecoder"),
    "num_classes": Map("vocab_size", REQUIRED, _num_ctc_classes),
    "vocabulary": Read("tokenizer_map"),
    "feat_in": Drop(SHAPE),
    "init_mode": Drop(TRAINING),
    "add_blank": Pin((True,)),
}

LSTM_DECODER: Table = {
    "_target_": _section_target("RNNTDecoder"),
    "prednet": Read("PREDICTION_NETWORK", REQUIRED),
    "vocab_size": Map("vocab_size", REQUIRED, lambda value, values: _integer(value, values) + 1),
    "normalization_mode": Pin((None,)),
    "random_state_sampling": Drop(TRAINING),
    "blank_as_pad": Drop(
        "false stores no row of zeros for the blank; it is put there",
        accepts=lambda value: isinstance(value, bool),
        expected="true or false",
    ),
}

STATELESS_DECODER: Table = {
    "_target_": _section_target("StatelessTransducerDecoder"),
    "prednet": Read("PREDICTION_NETWORK", REQUIRED),
    "vocab_size": Map("vocab_size", REQUIRED, lambda value, values: _integer(value, values) + 1),
    "context_size": Map("decoder_context_size", 1, _integer),
    "normalization_mode": Map(
        "decoder_layer_norm", None, lambda value, values: _one_of("layer", None)(value, values) == "layer"
    ),
}

PREDICTION_NETWORK: Table = {
    "pred_hidden": Map("decoder_hidden_size", REQUIRED, _integer),
    "pred_rnn_layers": Map("num_decoder_layers", 1, _integer),
    "dropout": Map("decoder_dropout", 0.0, _number_or_zero),
    "rnn_hidden_size": Read("_check_lstm_width", -1),
    "t_max": Drop(TRAINING),
    "forget_gate_bias": Drop(TRAINING),
    "weights_init_scale": Drop(TRAINING),
    "hidden_hidden_bias_scale": Drop(TRAINING),
}

JOINT: Table = {
    "_target_": _section_target("RNNTJoint", "SampledRNNTJoint"),
    "jointnet": Read("JOINT_NETWORK", REQUIRED),
    "num_extra_outputs": Read("_durations", 0),
    "num_classes": Drop(SHAPE),
    "vocabulary": Read("tokenizer_map"),
    "log_softmax": Drop("changes scores with the device, never tokens"),
    "preserve_memory": Drop(SPEED),
    "fuse_loss_wer": Drop(TRAINING),
    "fused_batch_size": Drop(TRAINING),
    "experimental_fuse_loss_wer": Drop(TRAINING),
    "masking_prob": Drop(TRAINING),
    "n_samples": Drop(TRAINING),
}

JOINT_NETWORK: Table = {
    "joint_hidden": Map("joint_hidden_size", REQUIRED, _integer),
    "activation": Map("joint_activation", REQUIRED, _one_of(*JOINT_ACTIVATIONS)),
    "dropout": Map("joint_dropout", 0.0, _number_or_zero),
    "encoder_hidden": Drop(SHAPE),
    "pred_hidden": Drop(SHAPE),
}


# Losses and decoding


def _no_language_model() -> Pin:
    return Pin((None, ""))


def _has_no_phrases(value: Any) -> bool:
    keys = ("model_path", "key_phrases_file", "key_phrases_list", "key_phrase_items_list")
    return value is None or not any(value.get(key) for key in keys)


GREEDY: Table = {
    "max_symbols": Read("_max_symbols"),
    "max_symbols_per_step": Read("_max_symbols"),
    "preserve_alignments": Drop(REPORTING),
    "preserve_frame_confidence": Drop(REPORTING),
    "compute_timestamps": Drop(REPORTING),
    "confidence_method_cfg": Drop(REPORTING),
    "confidence_measure_cfg": Drop(REPORTING),
    "confidence_method": Drop(REPORTING),
    "tdt_include_token_duration": Drop(REPORTING),
    "tdt_include_duration_confidence": Drop(REPORTING),
    "loop_labels": Drop(SPEED),
    "use_cuda_graph_decoder": Drop(SPEED),
    "allow_cuda_graphs": Drop(SPEED),
    "enable_per_stream_biasing": Drop("biases with phrases that a request brings along"),
    "ngram_lm_model": _no_language_model(),
    "ngram_lm_alpha": Drop("the weight of ngram_lm_model"),
    "boosting_tree": Drop("without phrases it changes nothing", accepts=_has_no_phrases, expected="no phrases"),
    "boosting_tree_alpha": Drop("the weight of boosting_tree"),
}

DECODING: Table = {
    "strategy": Pin(("greedy", "greedy_batch")),
    "greedy": Read("GREEDY"),
    "durations": Read("_durations"),
    "model_type": Drop("NeMo 3.0 goes by the durations", accepts=lambda value: value != "multiblank"),
    "big_blank_durations": Pin((None, [])),
    "temperature": Pin((1.0, None)),
    "strip_lang_tags": Read("tokenizer_map"),
    "lang_tag_pattern": Read("tokenizer_map"),
    "word_seperator": Read("tokenizer_map.timestamp_options"),
    "segment_seperators": Read("tokenizer_map.timestamp_options"),
    "segment_gap_threshold": Read("tokenizer_map.timestamp_options"),
    "beam": Drop("greedy decoding does not read it"),
    "wfst": Drop("greedy decoding does not read it"),
    "preserve_alignments": Drop(REPORTING),
    "compute_timestamps": Drop(REPORTING),
    "compute_langs": Drop(REPORTING),
    "compute_hypothesis_token_set": Drop(REPORTING),
    "tdt_include_token_duration": Drop(REPORTING),
    "tdt_include_duration": Drop(REPORTING),
    "confidence_cfg": Drop(REPORTING),
    "confidence_method_cfg": Drop(REPORTING),
    "rnnt_timestamp_type": Drop(REPORTING),
    "ctc_timestamp_type": Drop(REPORTING),
    "batch_dim_index": Pin((0, None)),
    "fused_batch_size": Drop(SPEED),
}

RNNT_LOSSES = (
    "default",
    "warprnnt",
    "warprnnt_numba",
    "pytorch",
    "graph_rnnt",
    "graph_w_transducer",
    "tdt",
    "tdt_pytorch",
)

LOSS: Table = {
    "loss_name": Drop(
        "which of the losses trains; TDT is told by its durations",
        accepts=lambda value: value in RNNT_LOSSES,
        expected=" or ".join(repr(name) for name in RNNT_LOSSES),
    ),
    **{
        f"{name}_kwargs": Drop(TRAINING)
        for name in (*RNNT_LOSSES, "multiblank_rnnt", "multiblank_rnnt_pytorch")
        if name != "tdt"
    },
    "tdt_kwargs": Read("TDT_LOSS"),
}

TDT_LOSS: Table = {
    "durations": Read("_durations"),
    "sigma": Map("sigma", 0.0, _number),
    "omega": Map("omega", 0.0, _number),
    "fastemit_lambda": Drop(TRAINING),
    "clamp": Drop(TRAINING),
}


def _ctc_reduction(value: Any, values: Values) -> str:
    # Of the training loss alone; the means differ in what each clip weighs.
    _one_of("none", "mean", "sum", "mean_batch", "mean_volume")(value, values)
    return "sum" if value == "sum" else "mean"


AUX_CTC: Table = {
    "decoder": Read("CTC_DECODER", REQUIRED),
    "decoding": Read("DECODING"),
    "ctc_loss_weight": Map("ctc_loss_weight", 0.5, _number),
    "ctc_reduction": Map("ctc_loss_reduction", "mean_batch", _ctc_reduction),
    "use_cer": Drop(REPORTING),
}


# The whole configuration

# NeMo's classes, by the last part of `target`, and which heads they have. One row more is one class more. `encoder`
# means that the encoder alone is converted, whatever stands behind it.
MODEL_CLASSES = {
    "EncDecCTCModel": "ctc",
    "EncDecCTCModelBPE": "ctc",
    "EncDecRNNTModel": "transducer",
    "EncDecRNNTBPEModel": "transducer",
    "EncDecHybridRNNTCTCModel": "hybrid",
    "EncDecHybridRNNTCTCBPEModel": "hybrid",
    "EncDecRNNTBPEEOUModel": "transducer",
    "EncDecHybridRNNTCTCBPEEOUModel": "hybrid",
    "EncDecMultiTalkerRNNTBPEModel": "transducer",
    "EncDecRNNTBPEModelWithPrompt": "transducer",
    "EncDecHybridRNNTCTCBPEModelWithPrompt": "hybrid",
    "EncDecMultiTaskModel": "encoder",
    "SpeechEncDecSelfSupervisedModel": "encoder",
    "EncDecMaskedTokenPredModel": "encoder",
    "EncDecDenoiseMaskedTokenPredModel": "encoder",
    "SortformerEncLabelModel": "encoder",
}

PROMPTED_CLASSES = ("EncDecRNNTBPEModelWithPrompt", "EncDecHybridRNNTCTCBPEModelWithPrompt")

MULTI_TALKER_CLASS = "EncDecMultiTalkerRNNTBPEModel"
SPEAKER_KERNELS: Table = {
    "spk_kernel_type": Read("_map_speaker_kernels"),
    "spk_kernel_layers": Read("_map_speaker_kernels", (0,)),
    "add_bg_spk_kernel": Read("_map_speaker_kernels", True),
}

# What is read where the encoder alone is converted. All other sections belong to parts that are left out.
ENCODER_ALONE: Table = {
    "target": Read("_heads_of"),
    "preprocessor": Read("PREPROCESSOR", REQUIRED),
    "encoder": Read("ENCODER", REQUIRED),
    "sample_rate": Read("map_config"),
    "adapters": Read("adapters.check_adapters"),
    **SPEAKER_KERNELS,
}

TOP_LEVEL: Table = {
    "target": Read("_heads_of"),
    "preprocessor": Read("PREPROCESSOR", REQUIRED),
    "encoder": Read("ENCODER", REQUIRED),
    "decoder": Read("CTC_DECODER, LSTM_DECODER, STATELESS_DECODER", REQUIRED),
    "joint": Read("JOINT"),
    "decoding": Read("DECODING"),
    "loss": Read("LOSS"),
    "aux_ctc": Read("AUX_CTC"),
    "tokenizer": Read("tokenizer_map"),
    "labels": Read("tokenizer_map"),
    "ctc_reduction": Read("AUX_CTC"),
    "sample_rate": Read("map_config"),
    "model_defaults": Read("_map_prompts"),
    "train_ds": Drop(TRAINING),
    "validation_ds": Drop(TRAINING),
    "test_ds": Drop(TRAINING),
    "optim": Drop(TRAINING),
    "spec_augment": Drop(TRAINING),
    "interctc": Drop(TRAINING),
    "rnnt_reduction": Drop(TRAINING),
    "skip_nan_grad": Drop(TRAINING),
    "variational_noise": Drop(TRAINING),
    "normalize_joint_txu": Drop(TRAINING),
    "normalize_encoder_norm": Drop(TRAINING),
    "normalize_decoder_norm": Drop(TRAINING),
    "normalize_joint_norm": Drop(TRAINING),
    "trainer": Drop(TRAINING),
    "exp_manager": Drop(TRAINING),
    "init_from_nemo_model": Drop(TRAINING),
    "init_from_pretrained_model": Drop(TRAINING),
    "init_from_ptl_ckpt": Drop(TRAINING),
    "compute_eval_loss": Drop(REPORTING),
    "log_prediction": Drop(REPORTING),
    "use_cer": Drop(REPORTING),
    "name": Drop("a name"),
    "nemo_version": Drop("the version that saved the archive"),
    # Modules that change the numbers and have no counterpart here.
    "adapters": Read("adapters.check_adapters"),
    "prompt_kernel": Pin((None,)),
    "num_prompts": Drop("NeMo 3.0 writes that of model_defaults over it"),
    "subsampling_factor": Drop("that of the encoder is in its section"),
    **SPEAKER_KERNELS,
}


# Sections that tell the same where an archive does not name its class.
ENCODER_ALONE_SECTIONS = {
    "transf_decoder": "an attention decoder, not converted",
    "sortformer_modules": "a speaker diariser, not converted",
    "quantizer": "self-supervised targets, not converted",
    "loss_list": "self-supervised targets, not converted",
}


@dataclass(frozen=True)
class MappedConfig:
    """
    What a NeMo configuration becomes.

    Args:
        config: Shape of encoder and heads.
        architecture: Name of the model class.
        family: `"ctc"`, `"rnnt"`, `"tdt"`, `"hybrid_rnnt_ctc"`, `"hybrid_tdt_ctc"`, or `"encoder"`: that alone.
        feature_extractor_arguments: For `FastConformerFeatureExtractor`.
        nemo_class: NeMo's class, the last part of `target`; None where the archive does not say.
        dropped: Every key that had no influence, as `section.key`, and why.
        adapters_off: Names of the adapters that are in the archive and switched off.
    """

    config: FastConformerConfig
    architecture: str
    family: str
    feature_extractor_arguments: dict[str, Any]
    nemo_class: str | None
    dropped: dict[str, str] = field(default_factory=dict)
    adapters_off: frozenset[str] = frozenset()


# Heads and durations: the classes of ours.
FAMILIES: dict[tuple[str, bool], tuple[str, type[FastConformerConfig], str]] = {
    ("encoder", False): ("encoder", FastConformerConfig, "FastConformerModel"),
    ("ctc", False): ("ctc", FastConformerCTCConfig, "FastConformerForCTC"),
    ("transducer", False): ("rnnt", FastConformerRNNTConfig, "FastConformerForRNNT"),
    ("transducer", True): ("tdt", FastConformerTDTConfig, "FastConformerForTDT"),
    ("hybrid", False): ("hybrid_rnnt_ctc", FastConformerRNNTConfig, "FastConformerForRNNT"),
    ("hybrid", True): ("hybrid_tdt_ctc", FastConformerTDTConfig, "ParakeetTDTForTDT"),
}


class _Reader:
    """Applies the tables to one archive's configuration."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.dropped: dict[str, str] = {}

    def refuse(self, name: str, value: Any, expected: str) -> ValueError:
        shown = repr(value) if len(repr(value)) <= 200 else f"{repr(value)[:200]}..."
        end = f"; expected {expected}" if expected else ""
        return ValueError(f"{name}={shown} is not supported{end} (in {self.source}).")

    def apply(self, section: Any, table: Table, name: str) -> tuple[dict[str, Any], Values]:
        """Arguments of ours from a section, and its values with NeMo's defaults for what is absent."""
        prefix = f"{name}." if name else ""
        if not isinstance(section, Mapping):
            raise self.refuse(name, section, "a section")
        section = _without_class_nesting(section)
        for key, value in section.items():
            if key not in table:
                raise self.refuse(f"{prefix}{key}", value, f"one of {sorted(table)}")
        values: Values = {}
        for key, row in table.items():
            default = row.default if isinstance(row, Map | Read) else None
            values[key] = section.get(key, default)
            if isinstance(row, Map | Read) and (values[key] is REQUIRED or is_unresolved(values[key])):
                raise self.refuse(f"{prefix}{key}", values[key], "a value")
        arguments: dict[str, Any] = {}
        for key, row in table.items():
            value = values[key]
            if isinstance(row, Map):
                try:
                    converted = row.convert(value, values)
                except NotAcceptedError as error:
                    raise self.refuse(f"{prefix}{key}", value, str(error)) from None
                except (TypeError, KeyError, IndexError, AttributeError):
                    raise self.refuse(f"{prefix}{key}", value, "a value of the right kind") from None
                if isinstance(row.targets, str):
                    arguments[row.targets] = converted
                else:
                    arguments.update(zip(row.targets, converted, strict=True))
            elif key in section and isinstance(row, Pin):
                if value not in row.accepted:
                    raise self.refuse(f"{prefix}{key}", value, " or ".join(repr(choice) for choice in row.accepted))
            elif key in section and isinstance(row, Drop):
                if row.accepts is not None and not row.accepts(value):
                    raise self.refuse(f"{prefix}{key}", value, row.expected)
                self.dropped[f"{prefix}{key}"] = row.reason
        return arguments, values


def _without_class_nesting(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sections of NeMo before 1.0, `{cls: ..., params: {...}}`, in the form of today."""
    if "cls" not in section:
        return section
    rest = {key: value for key, value in section.items() if key not in ("cls", "params")}
    return {"_target_": section["cls"], **rest, **(section.get("params") or {})}


def map_config(
    config: Mapping[str, Any],
    source: str = "model_config.yaml",
    tensor_names: Iterable[str] | None = None,
    encoder_only: bool = False,
) -> MappedConfig:
    """
    Our configuration of a model from NeMo's.

    Args:
        config: A parsed `model_config.yaml`.
        source: Where it comes from, for messages.
        tensor_names: Names of the weights, which decide whether an archive that does not name its class is a hybrid.
        encoder_only: Leave the heads out. Any class of NeMo will do, as long as its encoder is a FastConformer.

    Raises:
        ValueError: for an option that is not supported; it names `section.key=value` and what is accepted.
    """
    reader = _Reader(source)
    nemo_class, heads = _heads_of(config, tensor_names, reader, encoder_only)
    # Sections that NeMo's classes do not read are common in old archives. They cannot bring modules along: a tensor
    # without a row in the map of weights is refused.
    table, reason = TOP_LEVEL, "not read by NeMo 3.0 either"
    if heads == "encoder":
        table, reason = ENCODER_ALONE, "not of the encoder"
    for key in config:
        if key not in table:
            reader.dropped[str(key)] = reason
    _, sections = reader.apply({key: value for key, value in config.items() if key in table}, table, "")
    adapters_off = check_adapters(sections["adapters"], source)
    reader.dropped |= {f"adapters.{name}": "an adapter that is switched off" for name in adapters_off}
    extractor_arguments, preprocessor = reader.apply(sections["preprocessor"], PREPROCESSOR, "preprocessor")
    extractor_arguments |= _frame_samples(
        preprocessor, lambda key, expected: reader.refuse(f"preprocessor.{key}", preprocessor[key], expected)
    )
    if extractor_arguments["n_fft"] is None:
        extractor_arguments["n_fft"] = 2 ** math.ceil(math.log2(extractor_arguments["win_length"]))
    if sections["sample_rate"] not in (None, extractor_arguments["sampling_rate"]):
        raise reader.refuse(
            "sample_rate",
            sections["sample_rate"],
            f"preprocessor.sample_rate, which is {extractor_arguments['sampling_rate']}",
        )
    arguments, encoder = reader.apply(sections["encoder"], ENCODER, "encoder")
    num_features = extractor_arguments["feature_size"] * extractor_arguments["frame_splicing"]
    if arguments["num_mel_bins"] != num_features:
        raise reader.refuse(
            "encoder.feat_in",
            encoder["feat_in"],
            f"the {num_features} features of the preprocessor (features x frame_splicing)",
        )

    arguments |= _map_speaker_kernels(sections, nemo_class, encoder["n_layers"], tensor_names, reader)

    durations: list[int] = []
    if heads == "encoder":
        pass
    elif heads == "ctc":
        head_arguments, _ = reader.apply(sections["decoder"], CTC_DECODER, "decoder")
        arguments |= head_arguments
        arguments["ctc_loss_reduction"] = _plain_ctc_reduction(sections["ctc_reduction"], reader)
        _read_decoding(sections["decoding"], "decoding", reader)
    else:
        transducer_arguments, durations = _map_transducer(sections, reader)
        arguments |= transducer_arguments | _map_prompts(sections["model_defaults"], nemo_class, reader)
        if heads == "hybrid":
            arguments |= _map_auxiliary_ctc(sections["aux_ctc"], arguments["vocab_size"], sections["decoding"], reader)
        elif sections["aux_ctc"] is not None:
            reader.dropped["aux_ctc"] = f"{nemo_class or 'the model'} has no CTC head"

    family, config_class, architecture = FAMILIES[heads, bool(durations)]
    try:
        mapped = config_class(**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from error
    mapped.architectures = [architecture]
    return MappedConfig(mapped, architecture, family, extractor_arguments, nemo_class, reader.dropped, adapters_off)


def _plain_ctc_reduction(value: Any, reader: _Reader) -> str:
    """As `ctc_reduction` in `aux_ctc`, of a model with a CTC head alone."""
    try:
        return _ctc_reduction("mean_batch" if value is None else value, {})
    except NotAcceptedError as error:
        raise reader.refuse("ctc_reduction", value, str(error)) from None


def _heads_of(
    config: Mapping[str, Any], tensor_names: Iterable[str] | None, reader: _Reader, encoder_only: bool
) -> tuple[str | None, str]:
    """NeMo's class and which heads it has: by its name, or in old archives by the sections."""
    target = config.get("target")
    nemo_class = None if target is None else str(target).rsplit(".", 1)[-1]
    if encoder_only:
        return nemo_class, "encoder"
    if nemo_class is not None:
        if nemo_class not in MODEL_CLASSES:
            raise reader.refuse("target", target, f"one of {sorted(MODEL_CLASSES)}")
        return nemo_class, MODEL_CLASSES[nemo_class]
    for section, what in ENCODER_ALONE_SECTIONS.items():
        if config.get(section) is not None:
            reader.dropped[section] = what
            return None, "encoder"
    if config.get("joint") is None:
        return None, "ctc"
    has_ctc_tensors = tensor_names is None or any(name.startswith("ctc_decoder.") for name in tensor_names)
    return None, "hybrid" if config.get("aux_ctc") is not None and has_ctc_tensors else "transducer"


def _map_transducer(sections: Values, reader: _Reader) -> tuple[dict[str, Any], list[int]]:
    """Arguments of prediction network, joint network and loss, and TDT's durations (none for RNN-T)."""
    decoder_section = sections["decoder"]
    target = str(_without_class_nesting(decoder_section).get("_target_", "RNNTDecoder"))
    is_stateless = target.rsplit(".", 1)[-1] == "StatelessTransducerDecoder"
    decoder_table = STATELESS_DECODER if is_stateless else LSTM_DECODER
    arguments, decoder = reader.apply(decoder_section, decoder_table, "decoder")
    arguments["decoder_type"] = "stateless" if is_stateless else "lstm"
    prediction_arguments, prediction = reader.apply(decoder["prednet"], PREDICTION_NETWORK, "decoder.prednet")
    arguments |= prediction_arguments
    _check_lstm_width(prediction, reader)
    if sections["joint"] is None:
        raise reader.refuse("joint", None, "a section")
    _, joint = reader.apply(sections["joint"], JOINT, "joint")
    arguments |= reader.apply(joint["jointnet"], JOINT_NETWORK, "joint.jointnet")[0]

    _, loss = reader.apply(sections["loss"] or {}, LOSS, "loss")
    decoding, greedy = _read_decoding(sections["decoding"], "decoding", reader)
    arguments["max_symbols_per_step"] = _max_symbols(greedy, reader)
    tdt_arguments, tdt_loss = reader.apply(loss["tdt_kwargs"] or {}, TDT_LOSS, "loss.tdt_kwargs")
    durations = _durations(loss, tdt_loss, decoding, joint, reader)
    if durations:
        arguments |= tdt_arguments
        arguments["durations"] = durations
    return arguments, durations


def _map_speaker_kernels(
    sections: Values, nemo_class: str | None, num_layers: int, tensor_names: Iterable[str] | None, reader: _Reader
) -> dict[str, bool]:
    """
    Arguments of a multi-talker model. Its kernels behind the first block act where a speaker is chosen, alone (NeMo
    3.0); the one before it always does.
    """
    kind, layers = sections["spk_kernel_type"], sections["spk_kernel_layers"]
    if nemo_class != MULTI_TALKER_CLASS or not isinstance(layers, list):
        return {}
    if kind != "ff":
        raise reader.refuse("spk_kernel_type", kind, "'ff'")
    if any(isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= num_layers for layer in layers):
        raise reader.refuse("spk_kernel_layers", layers, f"numbers of blocks, 0 to {num_layers}")
    if tensor_names is not None:
        prefixes = ("spk_kernels.", "bg_spk_kernels.")
        stored = {int(name.split(".")[1]) for name in tensor_names if name.startswith(prefixes)}
        if stored != set(layers):
            raise reader.refuse("spk_kernel_layers", layers, f"those of the weights, {sorted(stored)}")
    has_first = 0 in layers
    return {
        "has_speaker_kernel": has_first,
        "has_background_kernel": has_first and bool(sections["add_bg_spk_kernel"]),
    }


def _map_prompts(defaults: Any, nemo_class: str | None, reader: _Reader) -> dict[str, Any]:
    """
    Arguments of language prompts. NeMo's `transcribe` takes the language `auto` unless it is told another, and the
    `model_defaults` hold nothing else that the weights do not tell.
    """
    defaults = defaults if isinstance(defaults, Mapping) else {}
    if nemo_class not in PROMPTED_CLASSES or not defaults.get("initialize_prompt_feature", False):
        return {}
    languages = defaults.get("prompt_dictionary")
    name = "model_defaults.prompt_dictionary"
    if not isinstance(languages, Mapping) or not languages:
        raise reader.refuse(name, languages, "the code and the number of each language")
    num_prompts = defaults.get("num_prompts", 128)
    for code, number in languages.items():
        if not isinstance(code, str) or isinstance(number, bool) or not isinstance(number, int):
            raise reader.refuse(f"{name}.{code}", number, "a code that is a text, and its number")
        if not 0 <= number < num_prompts:
            raise reader.refuse(f"{name}.{code}", number, f"0 to {num_prompts - 1}, as num_prompts={num_prompts}")
    return {
        "num_prompts": num_prompts,
        "prompt_languages": dict(languages),
        "default_language": "auto" if "auto" in languages else None,
    }


def _check_lstm_width(prediction: Values, reader: _Reader) -> None:
    """NeMo 3.0 starts an LSTM with a projection from states of the wrong width: it cannot decode with one."""
    width, hidden = prediction["rnn_hidden_size"], prediction["pred_hidden"]
    if width not in (None, hidden) and not (isinstance(width, int) and width <= 0):
        raise reader.refuse(
            "decoder.prednet.rnn_hidden_size", width, f"-1 or pred_hidden={hidden}, that is an LSTM without projection"
        )


def _durations(loss: Values, tdt_loss: Values, decoding: Values, joint: Values, reader: _Reader) -> list[int]:
    """TDT's durations. Those of the loss override those of the decoding, which may be stale (NeMo 3.0)."""
    if loss["loss_name"] == "tdt":
        name, durations = "loss.tdt_kwargs.durations", tdt_loss["durations"]
        if not durations:
            raise reader.refuse(name, durations, "a list of durations in frames")
    else:
        name, durations = "decoding.durations", decoding.get("durations")
    durations = list(durations or [])
    if any(isinstance(duration, bool) or not isinstance(duration, int) for duration in durations):
        raise reader.refuse(name, durations, "a list of integers, in frames")
    if len(durations) != (joint["num_extra_outputs"] or 0):
        raise reader.refuse(
            "joint.num_extra_outputs", joint["num_extra_outputs"], f"the number of durations, {len(durations)}"
        )
    return durations


def _read_decoding(section: Any, name: str, reader: _Reader) -> tuple[Values, Values]:
    """Values of a decoding section and of its greedy part; both may be absent."""
    _, decoding = reader.apply(section or {}, DECODING, name)
    _, greedy = reader.apply(decoding["greedy"] or {}, GREEDY, f"{name}.greedy")
    return decoding, greedy


def _max_symbols(greedy: Values, reader: _Reader) -> int:
    """
    Most tokens in a frame. NeMo 3.0 takes 10 where there is no number, in CUDA graphs and when it fills in its
    defaults; its plain decoder would then go on for ever.
    """
    limit = greedy["max_symbols"] or greedy["max_symbols_per_step"] or 10
    if isinstance(limit, bool) or not isinstance(limit, int) or limit <= 0:
        raise reader.refuse("decoding.greedy.max_symbols", limit, "a positive integer")
    return limit


# How times of words and segments are formed, with the defaults of NeMo 3.0.
TIME_DEFAULTS: Values = {
    "word_seperator": " ",
    "segment_seperators": [".", "?", "!"],
    "segment_gap_threshold": None,
}


def _check_times_alike(transducer: Values, ctc: Values, reader: _Reader) -> None:
    """One checkpoint has one rule for words and segments: refuse a hybrid whose heads have two."""
    for key, default in TIME_DEFAULTS.items():
        of_transducer, of_ctc = (default if values[key] is None else values[key] for values in (transducer, ctc))
        same = set(of_transducer) == set(of_ctc) if isinstance(default, list) else of_transducer == of_ctc
        if not same:
            raise reader.refuse(f"aux_ctc.decoding.{key}", of_ctc, f"that of decoding, which is {of_transducer!r}")


def _map_auxiliary_ctc(section: Any, vocab_size: int, transducer_section: Any, reader: _Reader) -> dict[str, Any]:
    """Arguments of the CTC head of a hybrid, whose classes are those of the transducer."""
    if section is None:
        raise reader.refuse("aux_ctc", None, "a section, in a hybrid model")
    arguments, values = reader.apply(section, AUX_CTC, "aux_ctc")
    head_arguments, head = reader.apply(values["decoder"], CTC_DECODER, "aux_ctc.decoder")
    if head_arguments["vocab_size"] != vocab_size:
        raise reader.refuse("aux_ctc.decoder.num_classes", head["num_classes"], f"{vocab_size - 1}, as the transducer")
    ctc_decoding, _ = _read_decoding(values["decoding"], "aux_ctc.decoding", reader)
    transducer_decoding, _ = _read_decoding(transducer_section, "decoding", reader)
    _check_times_alike(transducer_decoding, ctc_decoding, reader)
    return {**arguments, "has_ctc_head": True}
