"""
NeMo's model configuration to ours: which class it is of, which sections are read, and what they become together.

The sections themselves are in the folder `sections`; what their rows mean says `checkpoints.key_table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints.key_table import REQUIRED, Drop, Pin, Read, Row, Table, Values, section, sequence
from ..configuration_diarization import FastConformerDiarizationConfig
from ..configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..configuration_multitask import FastConformerMultitaskConfig
from ..configuration_pretraining import FastConformerPreTrainingConfig
from ..validation import reading
from .adapters import ADAPTER_OFF, check_adapters
from .sections.aux_ctc import map_auxiliary_ctc
from .sections.common import REPORTING, TRAINING, NemoReader, class_of
from .sections.decoder import CTC_DECODER, map_prediction_network
from .sections.decoding import read_decoding, read_max_symbols
from .sections.diarization import DIARIZATION, map_diarization
from .sections.encoder import map_encoder
from .sections.interctc import map_interctc
from .sections.joint import map_joint
from .sections.loss import map_loss, read_reduction
from .sections.multitask import MULTITASK, map_multitask
from .sections.preprocessor import WAVEFORM_SCALING, map_preprocessor, read_peak_scaling
from .sections.pretraining import PRETRAINING, map_pretraining
from .sections.prompts import LANGUAGE_ID_KEYS, check_language_id_prompts, map_prompts
from .sections.speaker_kernels import SPEAKER_KERNELS, map_speaker_kernels
from .sections.spec_augment import map_spec_augment

# NeMo's classes, by the last part of `target`, and which heads they have. One row more is one class more. `encoder`
# means that only the encoder is converted, whatever comes after it.
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
    "EncDecMultiTaskModel": "multitask",
    "SpeechEncDecSelfSupervisedModel": "encoder",
    "EncDecMaskedTokenPredModel": "pretraining",
    "EncDecDenoiseMaskedTokenPredModel": "pretraining",
    "SortformerEncLabelModel": "diarization",
}

# Sections that tell the same where an archive does not name its class.
ENCODER_ALONE_SECTIONS = {
    "quantizer": "self-supervised targets, not converted",
    "loss_list": "self-supervised targets, not converted",
}

# The whole configuration of a model that is converted without heads. All other sections belong to parts that are left
# out.
ENCODER_ALONE: Table = {
    "target": Read("_heads_of"),
    "preprocessor": Read("PREPROCESSOR", REQUIRED),
    "encoder": Read("ENCODER", REQUIRED),
    "sample_rate": Read("_check_sampling_rate"),
    "adapters": Read("adapters.check_adapters"),
    **SPEAKER_KERNELS,
}

# Sections of all models with heads that tell how they are trained.
TRAINING_SECTIONS: dict[str, Row] = {
    "spec_augment": Read("map_spec_augment", check=section),
    "interctc": Read("map_interctc", check=section),
    "rnnt_reduction": Read("read_reduction"),
}

# Sections of all models with heads that have no influence on what they compute.
WITHOUT_INFLUENCE: dict[str, Row] = {
    "train_ds": Drop(TRAINING),
    "validation_ds": Drop(TRAINING),
    "test_ds": Drop(TRAINING),
    "optim": Drop(TRAINING),
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
}

TOP_LEVEL: Table = {
    **ENCODER_ALONE,
    **TRAINING_SECTIONS,
    **WITHOUT_INFLUENCE,
    "decoder": Read("CTC_DECODER, LSTM_DECODER, STATELESS_DECODER", REQUIRED),
    "joint": Read("JOINT"),
    "decoding": Read("DECODING", check=section),
    "loss": Read("LOSS", check=section),
    "aux_ctc": Read("AUX_CTC"),
    "tokenizer": Read("tokenizer_map", check=section),
    "labels": Read("tokenizer_map", check=sequence),
    "ctc_reduction": Read("read_reduction"),
    "model_defaults": Read("map_prompts", check=section),
    # A module that changes the numbers and has no counterpart here.
    "prompt_kernel": Pin((None,)),
    "num_prompts": Drop("NeMo 3.0 writes that of model_defaults over it"),
    "subsampling_factor": Drop("that of the encoder is in its section"),
    **LANGUAGE_ID_KEYS,
}

DIARIZATION_TOP_LEVEL: Table = {
    **ENCODER_ALONE,
    "spec_augment": TRAINING_SECTIONS["spec_augment"],
    **WITHOUT_INFLUENCE,
    **DIARIZATION,
}
PRETRAINING_TOP_LEVEL: Table = {**ENCODER_ALONE, **WITHOUT_INFLUENCE, **PRETRAINING}
MULTITASK_TOP_LEVEL: Table = {**ENCODER_ALONE, **TRAINING_SECTIONS, **WITHOUT_INFLUENCE, **MULTITASK}


@dataclass(frozen=True)
class MappedConfig:
    """
    A NeMo configuration in our form.

    Args:
        config: Shape of encoder and heads.
        architecture: Name of the model class.
        family: `"ctc"`, `"rnnt"`, `"tdt"`, `"hybrid_rnnt_ctc"`, `"hybrid_tdt_ctc"`, `"multitask"`,
            `"diarization"`, `"pretraining"`, or `"encoder"` without a head.
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


# Families of which the processor is only a feature extractor.
WITHOUT_TOKENIZER = ("encoder", "diarization", "pretraining")

# Heads and durations: the classes of ours.
FAMILIES: dict[tuple[str, bool], tuple[str, type[FastConformerConfig], str]] = {
    ("encoder", False): ("encoder", FastConformerConfig, "FastConformerModel"),
    ("ctc", False): ("ctc", FastConformerCTCConfig, "FastConformerForCTC"),
    ("transducer", False): ("rnnt", FastConformerRNNTConfig, "FastConformerForRNNT"),
    ("transducer", True): ("tdt", FastConformerTDTConfig, "FastConformerForTDT"),
    ("hybrid", False): ("hybrid_rnnt_ctc", FastConformerRNNTConfig, "FastConformerForRNNT"),
    ("hybrid", True): ("hybrid_tdt_ctc", FastConformerTDTConfig, "ParakeetTDTForTDT"),
    ("diarization", False): ("diarization", FastConformerDiarizationConfig, "FastConformerForDiarization"),
    ("pretraining", False): ("pretraining", FastConformerPreTrainingConfig, "FastConformerForPreTraining"),
    ("multitask", False): ("multitask", FastConformerMultitaskConfig, "FastConformerForMultitask"),
}


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
    with reading(source, "the configuration of a FastConformer model"):
        return _map_config(config, source, tensor_names, encoder_only)


def _map_config(
    config: Mapping[str, Any], source: str, tensor_names: Iterable[str] | None, encoder_only: bool
) -> MappedConfig:
    reader = NemoReader(source)
    nemo_class, heads = _heads_of(config, tensor_names, reader, encoder_only)
    is_sortformer = _is_sortformer(config, nemo_class)
    sections = _read_top_level(config, heads, is_sortformer, reader)
    adapters_off = check_adapters(sections["adapters"], source)
    reader.dropped |= {f"adapters.{name}": ADAPTER_OFF for name in adapters_off}
    extractor_arguments = map_preprocessor(sections["preprocessor"], reader)
    if is_sortformer:
        extractor_arguments["peak_scaling"] = read_peak_scaling(sections, reader)
    _check_sampling_rate(sections["sample_rate"], extractor_arguments["sampling_rate"], reader)
    num_features = extractor_arguments["feature_size"] * extractor_arguments["frame_splicing"]
    arguments = map_encoder(sections["encoder"], num_features, reader)
    num_layers = arguments["num_hidden_layers"]
    arguments |= map_speaker_kernels(sections, nemo_class, num_layers, tensor_names, reader)
    encoder_width = arguments["encoder_output_size"] or arguments["hidden_size"]
    if heads == "diarization":
        arguments |= map_diarization(sections, encoder_width, arguments["subsampling_factor"], reader)
    if heads == "pretraining":
        arguments |= map_pretraining(sections, num_features, arguments, reader)
    arguments |= _map_heads(heads, sections, nemo_class, encoder_width, reader)
    family, config_class, architecture = FAMILIES[heads, bool(arguments.get("durations"))]
    mapped = config_class(**arguments)
    mapped.architectures = [architecture]
    return MappedConfig(mapped, architecture, family, extractor_arguments, nemo_class, reader.dropped, adapters_off)


def _heads_of(
    config: Mapping[str, Any], tensor_names: Iterable[str] | None, reader: NemoReader, encoder_only: bool
) -> tuple[str | None, str]:
    """NeMo's class and which heads it has: by its name, or in old archives by the sections."""
    target = config.get("target")
    nemo_class = None if target is None else class_of(target)
    if encoder_only:
        return nemo_class, "encoder"
    if nemo_class is not None:
        if nemo_class not in MODEL_CLASSES:
            raise reader.refuse("target", target, f"one of {sorted(MODEL_CLASSES)}")
        return nemo_class, MODEL_CLASSES[nemo_class]
    if config.get("sortformer_modules") is not None:
        return None, "diarization"
    if config.get("quantizer") is not None and config.get("masking") is not None:
        return None, "pretraining"
    for name, what in ENCODER_ALONE_SECTIONS.items():
        if config.get(name) is not None:
            reader.dropped[name] = what
            return None, "encoder"
    if config.get("transf_decoder") is not None:
        return None, "multitask"
    if config.get("joint") is None:
        return None, "ctc"
    has_ctc_tensors = tensor_names is None or any(name.startswith("ctc_decoder.") for name in tensor_names)
    return None, "hybrid" if config.get("aux_ctc") is not None and has_ctc_tensors else "transducer"


def _is_sortformer(config: Mapping[str, Any], nemo_class: str | None) -> bool:
    """Tell whether a model is a Sortformer: by its class, or in old archives by its sections."""
    if nemo_class is None:
        return config.get("sortformer_modules") is not None
    return nemo_class == "SortformerEncLabelModel"


def _read_top_level(config: Mapping[str, Any], heads: str, is_sortformer: bool, reader: NemoReader) -> Values:
    """
    The sections that are read.

    Sections that NeMo's classes do not read are common in old archives. They cannot bring modules along: a tensor
    without a row in the map of weights is refused.
    """
    table, reason = TOP_LEVEL, "not read by NeMo 3.0 either"
    if heads == "multitask":
        table = MULTITASK_TOP_LEVEL
    if heads == "diarization":
        table = DIARIZATION_TOP_LEVEL
    if heads == "pretraining":
        table = PRETRAINING_TOP_LEVEL
    if heads == "encoder":
        table, reason = ENCODER_ALONE, "not of the encoder"
    if is_sortformer:
        table = {**table, **WAVEFORM_SCALING}
    reader.dropped |= {str(key): reason for key in config if key not in table}
    _, sections = reader.apply({key: value for key, value in config.items() if key in table}, table, "")
    return sections


def _check_sampling_rate(sampling_rate: Any, expected: int, reader: NemoReader) -> None:
    if sampling_rate not in (None, expected):
        raise reader.refuse("sample_rate", sampling_rate, f"preprocessor.sample_rate, which is {expected}")


def _map_heads(
    heads: str, sections: Values, nemo_class: str | None, encoder_width: int, reader: NemoReader
) -> dict[str, Any]:
    """Arguments of what comes after the encoder."""
    if heads in ("encoder", "pretraining"):
        return {}
    training = map_spec_augment(sections["spec_augment"], reader)
    if heads == "diarization":
        return training
    training |= map_interctc(sections["interctc"], heads in ("ctc", "hybrid"), reader)
    if heads == "multitask":
        return map_multitask(sections, encoder_width, reader) | training
    check_language_id_prompts(sections["model_defaults"], reader)
    if heads == "ctc":
        arguments, _ = reader.apply(sections["decoder"], CTC_DECODER, "decoder")
        arguments["ctc_loss_reduction"] = read_reduction("ctc_reduction", sections["ctc_reduction"], reader)
        read_decoding(sections["decoding"], "decoding", reader)
        return arguments | training
    arguments = _map_transducer(sections, reader) | map_prompts(sections["model_defaults"], nemo_class, reader)
    if heads == "hybrid":
        arguments |= map_auxiliary_ctc(sections["aux_ctc"], arguments["vocab_size"], sections["decoding"], reader)
    elif sections["aux_ctc"] is not None:
        reader.dropped["aux_ctc"] = f"{nemo_class or 'the model'} has no CTC head"
    return arguments | training


def _map_transducer(sections: Values, reader: NemoReader) -> dict[str, Any]:
    """Arguments of prediction network, joint network and loss, with TDT's durations where it has some."""
    arguments = map_prediction_network(sections["decoder"], reader)
    joint_arguments, joint = map_joint(sections["joint"], reader)
    decoding, greedy = read_decoding(sections["decoding"], "decoding", reader)
    arguments |= joint_arguments
    arguments["decoding_strategy"] = decoding["strategy"]
    arguments["max_symbols_per_step"] = read_max_symbols(greedy, decoding["strategy"], reader)
    reduction = read_reduction("rnnt_reduction", sections["rnnt_reduction"], reader)
    arguments["transducer_loss_reduction"] = reduction
    return arguments | map_loss(sections["loss"], decoding, joint, reader)
