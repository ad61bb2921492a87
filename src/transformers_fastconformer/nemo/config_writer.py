"""
Our configuration as NeMo's: the sections of a `model_config.yaml` from our options, the inverse of `config_map`.

There is no check here. Whoever writes a configuration reads it back with `config_map` and compares, so that an option
that NeMo has no key for is found whatever it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..configuration_diarization import FastConformerDiarizationConfig
from ..configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..configuration_multitask import FastConformerMultitaskConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..processing_fastconformer import FastConformerProcessor
from .diarization_writer import diarization_fillers, diarization_sections
from .multitask_writer import multitask_fillers, multitask_sections
from .sections.decoding import TIME_DEFAULTS
from .sections.loss import DEFAULT_LOSS, write_gradient_options, write_reduction
from .sections.speaker_kernels import kernel_layers
from .sections.spec_augment import write_spec_augment

Section = dict[str, Any]

MODELS = "nemo.collections.asr.models"
MODULES = "nemo.collections.asr.modules"
# By heads, and whether the vocabulary is one of characters.
MODEL_CLASSES = {
    ("ctc", False): "ctc_bpe_models.EncDecCTCModelBPE",
    ("ctc", True): "ctc_models.EncDecCTCModel",
    ("transducer", False): "rnnt_bpe_models.EncDecRNNTBPEModel",
    ("transducer", True): "rnnt_models.EncDecRNNTModel",
    ("hybrid", False): "hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
    ("hybrid", True): "hybrid_rnnt_ctc_models.EncDecHybridRNNTCTCModel",
}
PROMPTED_CLASSES = {
    "transducer": "rnnt_bpe_models_prompt.EncDecRNNTBPEModelWithPrompt",
    "hybrid": "hybrid_rnnt_ctc_bpe_models_prompt.EncDecHybridRNNTCTCBPEModelWithPrompt",
}
MULTI_TALKER_CLASS = "multitalker_asr_models.EncDecMultiTalkerRNNTBPEModel"


@dataclass(frozen=True)
class ModelParts:
    """
    All of a model that its NeMo configuration tells.

    Args:
        config: Shape of encoder and heads.
        processor: Feature extractor, tokenizer, and the rules for times; of a model without text the feature
            extractor.
        tokens: The vocabulary without the blank.
        tokenizer_section: NeMo's section of the tokenizer; None for a vocabulary of characters, and without one.
    """

    config: FastConformerConfig
    processor: FastConformerProcessor | FastConformerFeatureExtractor
    tokens: Sequence[str]
    tokenizer_section: Section | None

    @property
    def heads(self) -> str:
        """The heads as `config_map` calls them."""
        if isinstance(self.config, FastConformerCTCConfig):
            return "ctc"
        return "hybrid" if getattr(self.config, "has_ctc_head", False) else "transducer"


def build_nemo_config(parts: ModelParts, original: Mapping[str, Any] | None = None) -> Section:
    """
    A `model_config.yaml` for a model.

    Args:
        parts: The model.
        original: The configuration that it began with. All keys that say nothing about the model stay as they are.
    """
    written = _flatten_classes(copy.deepcopy(dict(original or {})))
    told = _told(parts)
    for key in ("spec_augment", "interctc"):
        if key not in told:  # switched off
            written.pop(key, None)
    _overlay(written, told)
    _fill(written, _fillers(parts))
    if parts.tokenizer_section is None:
        written.pop("tokenizer", None)
    return written


def _overlay(section: Section, values: Mapping[str, Any]) -> None:
    """Write values over those of a section, sections inside of sections too."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(section.get(key), dict) and key not in WHOLE:
            _overlay(section[key], value)
        else:
            section[key] = copy.deepcopy(value)


def _fill(section: Section, values: Mapping[str, Any]) -> None:
    """Add the values that a section lacks."""
    for key, value in values.items():
        if key not in section:
            section[key] = copy.deepcopy(value)
        elif isinstance(value, Mapping) and isinstance(section[key], dict):
            _fill(section[key], value)


# Mappings that are one value: their keys are not options.
WHOLE = ("prompt_dictionary", "tokenizer")


def _flatten_classes(section: Any) -> Any:
    """Sections of NeMo before 1.0, `{cls: ..., params: {...}}`, in the form of today."""
    if not isinstance(section, dict):
        return section
    section = {key: _flatten_classes(value) for key, value in section.items()}
    if isinstance(section.get("params"), dict) and "cls" in section:
        params = section.pop("params")
        section = {"_target_": section.pop("cls"), **section, **params}
    return section


def extractor_of(processor: FastConformerProcessor | FastConformerFeatureExtractor) -> FastConformerFeatureExtractor:
    """The feature extractor of a processor, or itself."""
    return processor.feature_extractor if isinstance(processor, FastConformerProcessor) else processor


def _told(parts: ModelParts) -> Section:
    """The keys that say what the model is."""
    config, processor = parts.config, parts.processor
    extractor = extractor_of(processor)
    told: Section = {
        "sample_rate": extractor.sampling_rate,
        "preprocessor": _preprocessor(extractor),
        "encoder": _encoder(config),
    }
    spec_augment = write_spec_augment(config)
    if spec_augment:
        told["spec_augment"] = spec_augment
    if parts.tokenizer_section is not None:
        told["tokenizer"] = parts.tokenizer_section
    if isinstance(config, FastConformerDiarizationConfig):
        return told | diarization_sections(config, extractor)
    assert isinstance(processor, FastConformerProcessor)
    if isinstance(config, FastConformerMultitaskConfig):
        return told | multitask_sections(config, processor)
    if parts.tokenizer_section is None or parts.heads != "ctc":
        told["labels"] = list(parts.tokens)
    if config.follows_speakers:
        told |= {
            "spk_kernel_type": "ff",
            "spk_kernel_layers": kernel_layers(config),
            "add_bg_spk_kernel": config.has_background_kernel,
        }
    times = _times(processor)
    if isinstance(config, FastConformerCTCConfig):
        told["decoder"] = _ctc_decoder(config, parts.tokens)
        told["ctc_reduction"] = write_reduction(config.ctc_loss_reduction)
        told |= _interctc(config)
        if times or processor.tokenizer.language_tag_pattern:
            told["decoding"] = times | _language_tags(processor)
        return told
    assert isinstance(config, FastConformerRNNTConfig)
    told |= _transducer(config, parts.tokens)
    told["decoding"] |= times | _language_tags(processor)
    if config.has_ctc_head:
        told["aux_ctc"] = {
            "ctc_loss_weight": config.ctc_loss_weight,
            "ctc_reduction": write_reduction(config.ctc_loss_reduction),
            "decoder": _ctc_decoder(config, parts.tokens),
            "decoding": dict(times),
        }
        told |= _interctc(config)
    return told


def _fillers(parts: ModelParts) -> Section:
    """Keys that NeMo wants besides, and those that only matter to training."""
    config, heads = parts.config, parts.heads
    preprocessor = {"_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor", "dither": 1e-5}
    encoder = {"_target_": f"{MODULES}.ConformerEncoder", "pos_emb_max_len": 5000}
    if isinstance(config, FastConformerMultitaskConfig):
        return {"preprocessor": preprocessor, "encoder": encoder, **multitask_fillers(config)}
    if isinstance(config, FastConformerDiarizationConfig):
        return {"preprocessor": preprocessor, "encoder": encoder, **diarization_fillers()}
    is_character_model = parts.tokenizer_section is None
    name = MODEL_CLASSES[heads, is_character_model]
    if config.follows_speakers:
        name = MULTI_TALKER_CLASS
    elif getattr(config, "num_prompts", 0) > 0:
        name = PROMPTED_CLASSES[heads]
    fillers: Section = {
        "target": f"{MODELS}.{name}",
        "preprocessor": preprocessor,
        "encoder": encoder,
    }
    head = {"_target_": f"{MODULES}.ConvASRDecoder"}
    if isinstance(config, FastConformerCTCConfig):
        return {**fillers, "decoder": head, "decoding": {"strategy": "greedy"}}
    assert isinstance(config, FastConformerRNNTConfig)
    fillers["joint"] = {
        "_target_": f"{MODULES}.RNNTJoint",
        "log_softmax": None,
        "preserve_memory": False,
        "fuse_loss_wer": False,
        "fused_batch_size": None,
    }
    if config.decoder_type == "stateless":
        fillers["decoder"] = {"_target_": f"{MODULES}.StatelessTransducerDecoder"}
    else:
        prediction_network = {"t_max": None}
        fillers["decoder"] = {
            "_target_": f"{MODULES}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": prediction_network,
        }
    if not isinstance(config, FastConformerTDTConfig):
        fillers["loss"] = {"loss_name": "default"}
    if config.has_ctc_head:
        fillers["aux_ctc"] = {"use_cer": False, "decoder": head, "decoding": {"strategy": "greedy"}}
    return fillers


def _preprocessor(extractor: FastConformerFeatureExtractor) -> Section:
    section: Section = {
        "sample_rate": extractor.sampling_rate,
        "window": extractor.window,
        "normalize": extractor.normalize or "NA",
        "n_fft": extractor.n_fft,
        "preemph": extractor.preemphasis,
        "features": extractor.feature_size,
        "lowfreq": extractor.min_frequency,
        "highfreq": extractor.max_frequency,
        "log": extractor.log,
        "log_zero_guard_type": extractor.log_zero_guard_type,
        "log_zero_guard_value": extractor.log_zero_guard_value,
        "pad_to": extractor.pad_to,
        "pad_value": extractor.padding_value,
        "frame_splicing": extractor.frame_splicing,
        "exact_pad": extractor.exact_pad,
        "mag_power": extractor.mag_power,
        "mel_norm": extractor.mel_norm,
    }
    for seconds_key, samples_key, samples in (
        ("window_size", "n_window_size", extractor.win_length),
        ("window_stride", "n_window_stride", extractor.hop_length),
    ):
        # NeMo's times of words need the seconds, which it rounds down to samples.
        seconds = samples / extractor.sampling_rate
        is_exact = int(seconds * extractor.sampling_rate) == samples
        section |= {seconds_key: seconds, samples_key: None} if is_exact else {seconds_key: None, samples_key: samples}
    return section


def _encoder(config: FastConformerConfig) -> Section:
    has_subsampling = config.subsampling_type != "none"
    section = {
        "feat_in": config.num_mel_bins,
        "feat_out": config.encoder_output_size or -1,
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "ff_expansion_factor": config.intermediate_size // config.hidden_size,
        "use_bias": config.attention_bias,
        "xscaling": config.scale_input,
        "causal_downsampling": config.causal_downsampling,
        "subsampling": config.subsampling_type if has_subsampling else None,
        "subsampling_factor": config.subsampling_factor if has_subsampling else 1,
        "subsampling_conv_channels": config.subsampling_conv_channels,
        "reduction": config.reduction_type,
        "reduction_position": config.reduction_position,
        "reduction_factor": config.reduction_factor,
        "self_attention_model": config.position_embedding_type,
        "untie_biases": not config.tie_position_biases,
        "att_context_style": config.attention_context_style,
        "global_tokens": config.num_global_tokens,
        "global_tokens_spacing": config.global_tokens_spacing,
        "global_attn_separate": config.global_attention_separate,
        "conv_kernel_size": config.conv_kernel_size,
        "conv_norm_type": f"{config.conv_norm_type}{config.conv_norm_groups or ''}",
        "conv_context_size": _conv_context(config),
        "dropout": config.dropout,
        "dropout_pre_encoder": config.dropout_pre_encoder,
        "dropout_emb": config.dropout_positions,
        "dropout_att": config.attention_dropout,
        "stochastic_depth_drop_prob": config.layerdrop,
        "stochastic_depth_mode": config.layerdrop_mode,
        "stochastic_depth_start_layer": config.layerdrop_start_layer,
    }
    if config.attention_context_style != "chunked_limited_with_rc":  # NeMo discards the one that is configured there
        section |= _contexts(config)
    return section


def _contexts(config: FastConformerConfig) -> Section:
    """The context in use first, as NeMo takes the first of several, and the chance of each in training."""
    current, contexts = list(config.attention_context), [list(context) for context in config.attention_contexts or []]
    if current not in contexts:
        return {"att_context_size": current}
    chances: Sequence[float | None] = config.attention_context_probabilities or [None] * len(contexts)
    ordered = sorted(zip(contexts, chances, strict=True), key=lambda pair: pair[0] != current)
    section: Section = {"att_context_size": [context for context, _ in ordered]}
    if config.attention_context_probabilities is not None:
        section["att_context_probs"] = [chance for _, chance in ordered]
    return section


def _conv_context(config: FastConformerConfig) -> str | list[int] | None:
    if config.conv_context is None:
        return None
    context = list(config.conv_context)
    return "causal" if context == [config.conv_kernel_size - 1, 0] else context


def _ctc_decoder(config: FastConformerCTCConfig | FastConformerRNNTConfig, tokens: Sequence[str]) -> Section:
    return {"feat_in": config.output_size, "num_classes": config.vocab_size - 1, "vocabulary": list(tokens)}


def _interctc(config: FastConformerCTCConfig | FastConformerRNNTConfig) -> Section:
    """The section of losses between the blocks, where there are some."""
    if not config.intermediate_ctc_layers:
        return {}
    layers, weights = config.intermediate_ctc_layers, config.intermediate_ctc_weights or []
    return {"interctc": {"apply_at_layers": list(layers), "loss_weights": list(weights)}}


def _transducer(config: FastConformerRNNTConfig, tokens: Sequence[str]) -> Section:
    """Prediction and joint network, decoding and loss."""
    prediction_network: Section = {"pred_hidden": config.decoder_hidden_size, "dropout": config.decoder_dropout}
    decoder: Section = {"vocab_size": config.vocab_size - 1, "prednet": prediction_network}
    if config.decoder_type == "stateless":
        decoder["context_size"] = config.decoder_context_size
        decoder["normalization_mode"] = "layer" if config.decoder_layer_norm else None
    else:
        prediction_network["pred_rnn_layers"] = config.num_decoder_layers
    joint: Section = {
        "num_classes": config.vocab_size - 1,
        "vocabulary": list(tokens),
        "jointnet": {
            "encoder_hidden": config.output_size,
            "pred_hidden": config.decoder_hidden_size,
            "joint_hidden": config.joint_hidden_size,
            "activation": config.joint_activation,
            "dropout": config.joint_dropout,
        },
    }
    told: Section = {
        "model_defaults": {
            "enc_hidden": config.output_size,
            "pred_hidden": config.decoder_hidden_size,
            "joint_hidden": config.joint_hidden_size,
        },
        "decoder": decoder,
        "joint": joint,
        "decoding": {"strategy": config.decoding_strategy, "greedy": {"max_symbols": config.max_symbols_per_step}},
        "rnnt_reduction": write_reduction(config.transducer_loss_reduction),
    }
    if config.num_prompts > 0:
        told["model_defaults"] |= {
            "initialize_prompt_feature": True,
            "num_prompts": config.num_prompts,
            "prompt_dictionary": dict(config.prompt_languages or {}),
        }
    if isinstance(config, FastConformerTDTConfig):
        durations = list(config.durations)
        joint["num_extra_outputs"] = len(durations)
        told["decoding"] |= {"model_type": "tdt", "durations": durations}
        told["loss"] = {
            "loss_name": "tdt",
            "tdt_kwargs": {
                "durations": durations,
                "sigma": config.sigma,
                "omega": config.omega,
                **write_gradient_options(config),
            },
        }
    else:
        told["loss"] = {f"{DEFAULT_LOSS}_kwargs": write_gradient_options(config)}
    return told


def _times(processor: FastConformerProcessor) -> Section:
    """Rules for times of words and segments that are not NeMo's defaults."""
    values = {
        "word_seperator": processor.word_separator,
        "segment_seperators": list(processor.segment_separators),
        "segment_gap_threshold": processor.segment_gap_frames,
    }
    return {key: value for key, value in values.items() if value != TIME_DEFAULTS[key]}


def _language_tags(processor: FastConformerProcessor) -> Section:
    pattern = processor.tokenizer.language_tag_pattern
    return {"strip_lang_tags": True, "lang_tag_pattern": pattern} if pattern else {}
