"""
A checkpoint of ours back to a `.nemo` archive that NeMo restores.

The configuration starts from the one that the conversion kept. Where it says what the model is, it is written as it
was; otherwise our options are written over it. A model without one gets a configuration of its own. What was written
is read back by the conversion and compared before anything takes its place at the output.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import get_annotations
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..audio.log_mel_settings import FILTERBANK_DTYPES, WINDOW_FUNCTIONS
from ..audio.mel_filterbank import mel_filterbank
from ..checkpoint_sources import ORIGINAL_CONFIG_FILE
from ..checkpoints.name_table import Target, check_fit
from ..checkpoints.own_checkpoint import OurCheckpoint, OurProcessor, open_our_checkpoint, stored_names
from ..checkpoints.safetensors_writer import TensorEntry
from ..configuration_diarization import FastConformerDiarizationConfig
from ..configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..configuration_multitask import FastConformerMultitaskConfig
from ..configuration_training import TRAINING_FIELDS
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..modeling.multitask_times import TIMES_FOLDER
from ..modeling.pretrained import FastConformerPreTrainedModel
from ..processing_fastconformer import FastConformerProcessor
from ..validation import require, shown
from .adapters import check_adapters
from .archive import CONFIG_MEMBER, NemoArchive
from .archive_writer import ModelMembers, check_archive_path, write_archive
from .config_map import map_config
from .config_text import read_config_text, write_config_text
from .config_writer import ModelParts, Section, build_nemo_config, extractor_of
from .convert import TIMES_PREFIX
from .description import check_vocabulary
from .diarization_writer import unread_tensors
from .front_end import build_feature_extractor
from .multitask_writer import TIMES_KEY, added_tensors, name_tokenizer_class
from .prompt_tokens import complete_vocabulary
from .sections.common import class_of
from .sections.multitask import PROMPT_MASK_KEY
from .sections.speaker_kernels import MULTI_TALKER_CLASS, kernel_layers
from .tokenizer_map import build_tokenizer, timestamp_options
from .tokenizer_writer import describe_tokenizer, write_tokenizer
from .weight_map import FILTERBANK, TIED_HEAD, TOKEN_EMBEDDING, WINDOW, name_table

logger = logging.get_logger(__name__)

EXPORTED_CONFIGS = (
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
    FastConformerMultitaskConfig,
    FastConformerDiarizationConfig,
)
# Options without a key in NeMo: the first are of training, the others of the folder that holds them.
NOT_IN_NEMO = (
    "apply_spec_augment",
    "initializer_range",
    "ctc_zero_infinity",
    "transducer_zero_infinity",
    "pad_token_id",
)
# Told by the tensors and members of the archive, or ours only.
OF_ARCHIVE = ("decoder_positions_dtype", "has_timestamps_model", "is_encoder_decoder", "use_cache")
OF_FRAMES_LAYERS = "transformer_encoder"
EMBEDDING = "decoder.prediction.embed.weight"


@dataclass(frozen=True)
class NemoExportResult:
    """
    The outcome of an export to NeMo.

    Args:
        path: The archive.
        nemo_class: NeMo's class that restores it.
        is_config_kept: The configuration is the one that the conversion kept, unchanged.
        num_tensors: Tensors in it.
        members: Names of the files in it.
    """

    path: Path
    nemo_class: str
    is_config_kept: bool
    num_tensors: int
    members: list[str]


def export_nemo(
    source: str | os.PathLike[str] | PreTrainedModel,
    output: str | os.PathLike[str],
    *,
    processor: OurProcessor | None = None,
    original: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> NemoExportResult:
    """
    Write a `.nemo` archive that NeMo restores. Nothing appears at `output` before the archive is whole and was read
    back; equal input gives equal bytes. Memory holds one tensor at a time.

    Args:
        source: A folder in our form, one of our models, or a checkpoint that `from_pretrained` converts on the way.
        output: The archive to make, a file name that ends in `.nemo`.
        processor: Next to a model, its processor (of a Sortformer the feature extractor); a folder has its own.
        original: The `.nemo` archive or the converted folder that the model began with, whose configuration is taken
            for all that the model does not say, such as the optimiser. By default the one that the conversion kept in
            the folder, and that models take along.
        overwrite: Replace a file at `output`.

    Raises:
        ValueError: naming an option that NeMo has no key for, its value and what is accepted; for an encoder without
            heads, for weights in 8 bits, and for an output that is in use.
    """
    path = Path(output)
    check_archive_path(path, overwrite)
    ours = open_our_checkpoint(source, processor)
    times_folder = _times_folder(source, ours)
    kept = _original_config(original, source, ours.folder)
    models = [_plan_model(ours, kept, has_times_model=times_folder is not None)]
    if times_folder is not None:
        times = open_our_checkpoint(times_folder)
        models.append(_plan_model(times, _original_config(None, times_folder, times.folder), prefix=TIMES_PREFIX))

    def check(written: Path) -> None:
        for model in models:
            with NemoArchive(written, model.prefix) as archive:
                model.check(archive)

    write_archive(path, [model.members for model in models], overwrite, check)
    first = models[0]
    logger.info(f"{first.name} is written as {first.written['target']} to {path}.")
    return NemoExportResult(
        path,
        class_of(first.written["target"]),
        first.is_kept,
        len(first.members.entries),
        list(dict.fromkeys(name for model in models for name in (model.config_member, *model.members.artifacts))),
    )


@dataclass(frozen=True)
class _PlannedModel:
    """
    A model that is to be written.

    Args:
        name: Its name in messages.
        ours: The model.
        processor: Its processor.
        written: NeMo's configuration.
        is_kept: It is the one that the conversion kept.
        front_end: Window and filters.
        members: Its members of the archive.
    """

    name: str
    ours: OurCheckpoint
    processor: OurProcessor
    written: Section
    is_kept: bool
    front_end: Mapping[str, torch.Tensor]
    members: ModelMembers

    @property
    def prefix(self) -> str:
        return self.members.prefix

    @property
    def config_member(self) -> str:
        return f"{self.prefix}{CONFIG_MEMBER}"

    def check(self, archive: NemoArchive) -> None:
        """Read the configuration back and refuse one that says something else."""
        names = [entry.name for entry in self.members.entries]
        found = _find_differences(
            archive.read_config(),
            self.ours.config,
            self.processor,
            archive.read_member,
            self.front_end,
            names,
            self.name,
        )
        _refuse_differences(found, self.name)


def _plan_model(
    ours: OurCheckpoint, kept: Section | None, has_times_model: bool = False, prefix: str = ""
) -> _PlannedModel:
    """Plan the configuration, the files and the weights of a model."""
    name = str(ours.folder or "the model")
    processor = _check_source(ours, name)
    sources, dtypes = _plan_weights(ours, name)
    front_end = _front_end(extractor_of(processor))
    nemo_names = [*front_end, *sources]
    config, artifacts, is_kept = _choose_config(ours.config, processor, kept, front_end, nemo_names, name)
    _cut_blank_row(config, sources, ours)
    computed = dict(front_end)
    if isinstance(ours.config, FastConformerMultitaskConfig):
        computed |= added_tensors(ours.config, config)
        sources[TIED_HEAD], dtypes[TIED_HEAD] = sources[TOKEN_EMBEDDING], dtypes[TOKEN_EMBEDDING]
        if has_times_model and not config.get(TIMES_KEY, True):
            config[TIMES_KEY] = True
    if isinstance(ours.config, FastConformerDiarizationConfig):
        computed |= unread_tensors(ours.config)
    entries = [TensorEntry(key, tuple(tensor.shape), tensor.dtype) for key, tensor in computed.items()]
    entries += [TensorEntry(key, target.shape, dtypes[key]) for key, (_, target) in sources.items()]

    def fetch(nemo_name: str) -> torch.Tensor:
        if nemo_name in computed:
            return computed[nemo_name]
        stored, target = sources[nemo_name]
        tensor = ours.tensors.read(stored)
        if nemo_name == EMBEDDING:
            tensor = tensor[: target.shape[0]]
        return target.form.to_theirs(tensor, target.shape)

    members = ModelMembers(write_config_text(config), artifacts, entries, fetch, prefix)
    return _PlannedModel(name, ours, processor, config, is_kept, front_end, members)


def _times_folder(source: Any, ours: OurCheckpoint) -> Path | None:
    """The folder of the model of times that a Canary carries."""
    if not getattr(ours.config, "has_timestamps_model", False):
        return None
    if ours.folder is not None:
        return ours.folder / TIMES_FOLDER
    times_model = getattr(source, "times_model", None)
    return None if times_model is None else times_model.folder


def _check_source(ours: OurCheckpoint, name: str) -> OurProcessor:
    """The processor of a checkpoint that can be written."""
    config = ours.config
    if type(config) not in EXPORTED_CONFIGS:
        accepted = [config_class.model_type for config_class in EXPORTED_CONFIGS]
        raise ValueError(
            f"{name}: model_type={config.model_type!r} is not supported by the export to NeMo; expected one of "
            f"{accepted}, that is a model with a head."
        )
    if getattr(config, "quantization_config", None):
        raise ValueError(
            f"{name}: weights stored in 8 bits are not supported by NeMo; expected floating weights, such as those "
            "that the checkpoint was made from (or `model.dequantize()`)."
        )
    if isinstance(config, FastConformerDiarizationConfig):
        is_extractor = isinstance(ours.processor, FastConformerFeatureExtractor)
        require(is_extractor, f"{name}: processor", shown(ours.processor), "a FastConformerFeatureExtractor")
        assert isinstance(ours.processor, FastConformerFeatureExtractor)
        return ours.processor
    if not isinstance(ours.processor, FastConformerProcessor):
        raise ValueError(
            f"{name}: processor={shown(ours.processor)} is not supported; expected a FastConformerProcessor, whose "
            "tokenizer and feature extractor belong into the archive."
        )
    check_vocabulary(ours.processor.tokenizer, config, name)
    return ours.processor


def _original_config(
    original: str | os.PathLike[str] | None, source: str | os.PathLike[str] | PreTrainedModel, folder: Path | None
) -> Section | None:
    """The configuration that a model began with; None where it is not known."""
    if original is None and isinstance(source, FastConformerPreTrainedModel):
        content = source.original_config.read()
        return None if content is None else read_config_text(content, ORIGINAL_CONFIG_FILE)
    if original is None:
        path = folder / ORIGINAL_CONFIG_FILE if folder is not None else None
        if path is None or not path.is_file():
            return None
        return read_config_text(path.read_bytes(), str(path))
    path = Path(original)
    kept = path / ORIGINAL_CONFIG_FILE
    if kept.is_file():
        return read_config_text(kept.read_bytes(), str(kept))
    require(path.exists(), "original", str(path), "a .nemo archive, or a folder that one was converted to")
    with NemoArchive(path) as archive:
        if CONFIG_MEMBER not in archive.member_names:
            raise ValueError(f"original={str(path)!r}: neither {CONFIG_MEMBER} nor {ORIGINAL_CONFIG_FILE} is there.")
        return archive.read_config()


# Weights


def _plan_weights(ours: OurCheckpoint, name: str) -> tuple[dict[str, tuple[str, Target]], dict[str, torch.dtype]]:
    """Our stored name and the place in the archive for each name of NeMo's, and the types."""
    table = name_table(ours.config)
    sources: dict[str, tuple[str, Target]] = {}
    dtypes: dict[str, torch.dtype] = {}
    unknown = []
    for our_name, stored in stored_names(ours.config, ours.tensors.shapes).items():
        found = table.to_theirs(our_name)
        if found is None:
            unknown.append(our_name)
            continue
        nemo_name, row = found
        shape = row.form.their_shape(ours.tensors.shapes[stored])
        sources[nemo_name] = stored, Target(nemo_name, shape, row.form)
        dtypes[nemo_name] = ours.tensors.dtypes[stored]
    check_fit(name, unknown, [], [])
    return sources, dtypes


def _cut_blank_row(config: Section, sources: dict[str, tuple[str, Target]], ours: OurCheckpoint) -> None:
    """
    Leave the row of the blank out where the configuration has none; one that is not zero is kept, and so told.
    """
    if config.get("decoder", {}).get("blank_as_pad", True) or EMBEDDING not in sources:
        return
    stored, target = sources[EMBEDDING]
    if bool(ours.tensors.read(stored)[-1].count_nonzero()):
        config["decoder"]["blank_as_pad"] = True
        return
    sources[EMBEDDING] = stored, Target(target.name, (target.shape[0] - 1, *target.shape[1:]), target.form)


def _front_end(extractor: FastConformerFeatureExtractor) -> dict[str, torch.Tensor]:
    """Window and filters as NeMo keeps them with the weights."""
    dtype = FILTERBANK_DTYPES[extractor.filterbank_dtype]
    if extractor.window_values is not None:
        window = torch.from_numpy(extractor.window_values)
    else:
        make_window = WINDOW_FUNCTIONS[extractor.window]
        window = make_window(extractor.win_length, periodic=False, dtype=torch.float32, device="cpu")
    filters = extractor.mel_filters
    if filters is None:
        filters = mel_filterbank(
            extractor.sampling_rate,
            extractor.n_fft,
            extractor.feature_size,
            extractor.min_frequency,
            extractor.max_frequency,
            extractor.mel_norm,
        )
    return {WINDOW: window.to(dtype), FILTERBANK: torch.from_numpy(filters)[None].to(dtype)}


# Configuration


def _choose_config(
    config: FastConformerConfig,
    processor: OurProcessor,
    kept: Section | None,
    front_end: Mapping[str, torch.Tensor],
    nemo_names: Iterable[str],
    name: str,
) -> tuple[Section, dict[str, bytes], bool]:
    """The configuration to write, the files of the tokenizer, and whether it is the one that was kept."""
    tokenizer = processor.tokenizer if isinstance(processor, FastConformerProcessor) else None
    tokens = [] if tokenizer is None else tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))
    candidates: list[tuple[Section | None, bool]] = [(None, False)]
    if kept is not None:
        kept = _without_parts_left_out(kept, config, name)
        candidates = [(kept, True), (kept, False), (None, False)]
    found: list[str] = []
    for original, is_kept in candidates:
        section: Section | None = None
        artifacts: dict[str, bytes] = {}
        if tokenizer is not None:
            section, artifacts = write_tokenizer(tokenizer, (original or {}).get("tokenizer"))
        if section is not None and isinstance(config, FastConformerMultitaskConfig):
            assert tokenizer is not None
            section = name_tokenizer_class(section, tokenizer.text_rule == "aggregate")
        if is_kept:
            assert original is not None
            written = dict(original)
            if section is not None:
                written["tokenizer"] = section
        else:
            written = build_nemo_config(ModelParts(config, processor, tokens, section), original)
        try:
            found = _find_differences(written, config, processor, artifacts.__getitem__, front_end, nemo_names, name)
        except (ValueError, KeyError):
            if original is None:
                raise
            continue  # what was kept does not go with this model any more
        if not found:
            if kept is not None and original is None:
                logger.warning(f"{name}: the NeMo configuration that it began with is of another model, and not used.")
            return written, artifacts, is_kept
    _refuse_differences(found, name)
    raise AssertionError("a configuration with differences was refused")


def _without_parts_left_out(kept: Section, config: FastConformerConfig, name: str) -> Section:
    """The configuration that was kept, without what the conversion left out with its weights."""
    kept = dict(kept)
    if check_adapters(kept.get("adapters"), name):
        del kept["adapters"]
    # Folders that were converted before kernels after blocks were read lack them.
    layers = kept.get("spk_kernel_layers")
    if class_of(kept.get("target")) == MULTI_TALKER_CLASS and isinstance(layers, list):
        kept["spk_kernel_layers"] = layers if set(layers) == set(kernel_layers(config)) else kernel_layers(config)
    return kept


def _find_differences(
    written: Mapping[str, Any],
    config: FastConformerConfig,
    processor: OurProcessor,
    read_artifact: Any,
    front_end: Mapping[str, torch.Tensor],
    nemo_names: Iterable[str],
    name: str,
) -> list[str]:
    """What a conversion of this configuration would make otherwise than it is, in words."""
    mapped = map_config(written, f"{name}, as NeMo would have it", nemo_names)
    if type(mapped.config) is not type(config):
        return [f"model_type={config.model_type!r} (it would be {mapped.config.model_type!r})"]
    found = []
    is_with_text = isinstance(processor, FastConformerProcessor)
    tokenizer = build_tokenizer(written, read_artifact, name) if is_with_text else None
    options = OPTIONS[type(config)]
    if isinstance(config, FastConformerMultitaskConfig):
        assert tokenizer is not None
        assert isinstance(processor, FastConformerProcessor)
        complete_vocabulary(mapped.config, tokenizer, name)
        if not config.num_transformer_encoder_layers:  # nothing reads their shape
            options = tuple(option for option in options if OF_FRAMES_LAYERS not in option)
        if processor.learns_prompt == bool(written.get(PROMPT_MASK_KEY)):
            found.append(f"learns_prompt={processor.learns_prompt} (it would be {not processor.learns_prompt})")
    for option in options:
        value, read = _comparable(option, config), _comparable(option, mapped.config)
        if value != read:
            found.append(f"{option}={shown(value)} (it would be {shown(read)})")
    extractor = build_feature_extractor(mapped, front_end, name).to_dict()
    have = extractor_of(processor).to_dict()
    found += [
        f"feature_extractor.{option}={shown(have.get(option))} (it would be {shown(value)})"
        for option, value in extractor.items()
        if have.get(option) != value
    ]
    if not isinstance(processor, FastConformerProcessor):
        return found
    assert tokenizer is not None
    read_tokenizer = describe_tokenizer(tokenizer)
    found += [
        f"tokenizer.{option}={shown(value)} (it would be {shown(read_tokenizer[option])})"
        for option, value in describe_tokenizer(processor.tokenizer).items()
        if read_tokenizer[option] != value
    ]
    times = FastConformerProcessor(processor.feature_extractor, processor.tokenizer, **timestamp_options(written))
    for option in ("word_separator", "segment_separators", "segment_gap_frames"):
        value, read = getattr(processor, option), getattr(times, option)
        if value != read:
            found.append(f"{option}={shown(value)} (it would be {shown(read)})")
    return found


def _options_of(config_class: type[FastConformerConfig]) -> tuple[str, ...]:
    """Options that NeMo's configuration tells; those that every configuration of Transformers has are not ours."""
    kinds = (FastConformerConfig, *TRAINING_FIELDS)
    classes = [base for base in reversed(config_class.__mro__) if issubclass(base, kinds)]
    names = dict.fromkeys(name for base in classes for name in get_annotations(base))
    left_out: tuple[str, ...] = NOT_IN_NEMO
    if issubclass(config_class, FastConformerMultitaskConfig):
        # The padding is one of its tokens.
        left_out = (*(name for name in left_out if name != "pad_token_id"), *OF_ARCHIVE)
    return tuple(name for name in names if name not in (*left_out, "model_type"))


OPTIONS: dict[type[FastConformerConfig], tuple[str, ...]] = {
    config_class: _options_of(config_class) for config_class in EXPORTED_CONFIGS
}


def _comparable(option: str, config: FastConformerConfig) -> Any:
    value = getattr(config, option)
    contexts = [list(context) for context in config.attention_contexts or []]
    # NeMo takes the first context, and their order says no more.
    if option == "attention_contexts" and value is not None:
        return sorted(contexts)
    if option == "attention_context_probabilities" and value is not None:
        return sorted(zip(contexts, value, strict=True))
    return list(value) if isinstance(value, tuple) else value


def _refuse_differences(found: list[str], name: str) -> None:
    if found:
        raise ValueError(f"{name}: NeMo has no form for {'; '.join(found)}; expected options that it has.")
