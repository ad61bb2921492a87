"""
Inspection of a `.nemo` checkpoint, or of a folder in our form: its content and the result of a conversion, without
loading the weights.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ..checkpoints.files import CONFIG_FILE, read_json
from ..checkpoints.model_classes import CONFIG_CLASSES
from ..checkpoints.stored_tensors import StoredTensors
from ..configuration_fastconformer import FastConformerConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..tokenization_fastconformer import FastConformerTokenizer
from ..validation import reading
from .archive import NemoArchive
from .config_map import WITHOUT_TOKENIZER, MappedConfig, map_config
from .convert import TIMES_MODEL
from .description import check_vocabulary, describe_model, describe_parts_left_out
from .locate import ARCHIVE_SUFFIX, require_archive
from .prompt_tokens import complete_vocabulary
from .tokenizer_map import build_tokenizer
from .weight_map import check_counts, name_table
from .weights import WEIGHTS_MEMBER, TensorHeader

# Told as sizes, or without influence on what the model computes.
NO_OPTIONS = {
    "activation_dropout",
    "apply_spec_augment",
    "attention_context_probabilities",
    "attention_dropout",
    "blank_token_id",
    "ctc_loss_reduction",
    "ctc_loss_weight",
    "decoder_dropout",
    "decoder_hidden_size",
    "dropout",
    "dropout_positions",
    "dropout_pre_encoder",
    "fastemit_lambda",
    "hidden_size",
    "initializer_range",
    "intermediate_ctc_layers",
    "intermediate_ctc_weights",
    "intermediate_size",
    "joint_dropout",
    "joint_hidden_size",
    "layerdrop",
    "layerdrop_mode",
    "layerdrop_start_layer",
    "mask_feature_count",
    "mask_feature_width",
    "mask_rectangle_count",
    "mask_rectangle_features",
    "mask_rectangle_frames",
    "mask_time_count",
    "mask_time_width",
    "mask_value",
    "num_attention_heads",
    "num_hidden_layers",
    "num_mel_bins",
    "omega",
    "pad_token_id",
    "prompt_languages",
    "sigma",
    "transducer_gradient_clamp",
    "transducer_loss_reduction",
    "vocab_size",
}
# Raw keys that tell something where the configuration is refused.
RAW_SIZES = {
    "layers": ("encoder", "n_layers"),
    "width": ("encoder", "d_model"),
    "attention heads": ("encoder", "n_heads"),
    "mels": ("preprocessor", "features"),
    "subsampling": ("encoder", "subsampling_factor"),
}
# Ends of the names of tensors that are not weights.
NO_PARAMETERS = ("weight_scale", "running_mean", "running_var", "num_batches_tracked")
TOKENIZER_KINDS = {"bpe": "SentencePiece", "wpe": "WordPiece", "agg": "aggregate"}


@dataclass
class Inspection:
    """
    Facts about a checkpoint.

    Args:
        source: The Hub id, or the path of the archive.
        archive_bytes: Its size.
        nemo_class, nemo_version: As the archive says, if it does.
        family, architecture: What it becomes; None where it is refused.
        sizes: Name to number.
        dtype: Type of most of the weights, None where they are not read.
        num_parameters: Weights that are converted.
        num_archive_tensors: Tensors in the archive, None where they are not read.
        tokenizer: Kind and size in words.
        options: Our options that are not the usual ones: name to value and usual value.
        languages: Codes of language prompts.
        parts_left_out: Parts of NeMo's model that are not converted, and what they hold.
        dropped: Keys and tensors without influence, by the reason.
        refusal: Why it is not converted, if it is not.
        is_converted: It is a folder in the form of this package, not an archive.
    """

    source: str
    archive_bytes: int
    nemo_class: str | None = None
    nemo_version: str | None = None
    family: str | None = None
    architecture: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    dtype: str | None = None
    num_parameters: int | None = None
    num_archive_tensors: int | None = None
    tokenizer: str | None = None
    options: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    languages: list[str] = field(default_factory=list)
    parts_left_out: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    refusal: str | None = None
    is_converted: bool = False

    @property
    def is_convertible(self) -> bool:
        """Nothing was found that a conversion refuses."""
        return self.refusal is None


def inspect_checkpoint(
    source: str | os.PathLike[str],
    *,
    encoder_only: bool = False,
    **hub_options: Any,
) -> Inspection:
    """
    Look into a checkpoint. The reason of a refusal is told in `refusal`.

    Args:
        source, encoder_only, **hub_options: As in `convert_nemo_checkpoint`.

    Raises:
        ValueError: when there is not an archive, or it cannot be opened.
    """
    if is_our_folder(source):
        return _inspect_folder(Path(source))
    located = require_archive(source, hub_options)
    path = located.path
    with NemoArchive(path) as archive:
        archive_bytes = path.stat().st_size if path.is_file() else sum(map(archive.member_bytes, archive.member_names))
        found = Inspection(located.source, archive_bytes)
        try:
            # Whatever a checkpoint holds is a refusal and no error of the inspection.
            with reading(str(path), "a checkpoint of NeMo whose encoder is a FastConformer"):
                config = archive.read_config()
                _read_raw(found, config)
                headers = archive.read_tensor_headers()
                if headers is not None:
                    found.num_archive_tensors = len(headers)
                    values = Counter[str]()
                    for header in headers.values():
                        if "float" in header.dtype:
                            values[header.dtype] += _count(header)
                    found.dtype = values.most_common(1)[0][0] if values else None
                else:
                    archive.find_member(WEIGHTS_MEMBER)
                mapped = map_config(config, str(path), headers, encoder_only)
                if headers is not None:
                    check_counts(mapped.config, headers, str(path))
                _read_mapped(found, mapped)
                FastConformerFeatureExtractor(**mapped.feature_extractor_arguments)
                if mapped.family not in WITHOUT_TOKENIZER:
                    tokenizer = build_tokenizer(config, archive.read_member, str(path))
                    found.tokenizer = _describe_tokenizer(config, tokenizer)
                    complete_vocabulary(mapped.config, tokenizer, str(path))
                    check_vocabulary(tokenizer, mapped.config, str(path))
                shapes, found.num_parameters, _ = describe_model(mapped)
                if headers is not None:
                    _read_headers(found, mapped, headers, shapes, path, archive.member_names)
        except ValueError as error:
            found.refusal = str(error)
    return found


def is_our_folder(source: str | os.PathLike[str]) -> bool:
    """True for a folder in the form of this package that holds no archive."""
    folder = Path(source)
    if not (folder / CONFIG_FILE).is_file() or any(folder.glob(f"*{ARCHIVE_SUFFIX}")):
        return False
    return read_json(folder / CONFIG_FILE).get("model_type") in CONFIG_CLASSES


def _inspect_folder(folder: Path) -> Inspection:
    """Facts about a checkpoint in the form of this package."""
    content = read_json(folder / CONFIG_FILE)
    config = CONFIG_CLASSES[content["model_type"]].from_pretrained(folder)
    stored = StoredTensors(folder)
    counts = {name: math.prod(shape) for name, shape in stored.shapes.items() if not name.endswith(NO_PARAMETERS)}
    num_values = Counter[str]()
    for name, count in counts.items():
        num_values[str(stored.dtypes[name]).removeprefix("torch.")] += count
    main, *others = (name for name, _ in num_values.most_common()) if num_values else ("",)
    return Inspection(
        str(folder),
        sum(path.stat().st_size for path in stored.paths),
        architecture=(content.get("architectures") or [None])[0],
        sizes=_sizes_of(config),
        dtype=f"{main} in the encoder's blocks, {', '.join(others)} elsewhere" if main == "int8" else main,
        num_parameters=sum(counts.values()),
        options=_unusual_options(config),
        is_converted=True,
    )


def _count(header: TensorHeader) -> int:
    count = 1
    for size in header.shape:
        count *= size
    return count


def _read_raw(found: Inspection, config: Mapping[str, Any]) -> None:
    """Note what stands in the configuration, accepted or not."""
    target = config.get("target")
    found.nemo_class = None if target is None else str(target).rsplit(".", 1)[-1]
    version = config.get("nemo_version")
    found.nemo_version = None if version is None else str(version)
    for name, (section, key) in RAW_SIZES.items():
        content = config.get(section)
        value = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(value, int):
            found.sizes[name] = value


def _read_mapped(found: Inspection, mapped: MappedConfig) -> None:
    config = mapped.config
    found.family, found.architecture = mapped.family, mapped.architecture
    found.sizes = _sizes_of(config)
    found.sizes["sampling rate (Hz)"] = mapped.feature_extractor_arguments["sampling_rate"]
    found.options = _unusual_options(config)
    found.languages = sorted(getattr(config, "prompt_languages", None) or {})
    for name, reason in mapped.dropped.items():
        found.dropped.setdefault(reason, []).append(name)


def _sizes_of(config: FastConformerConfig) -> dict[str, int]:
    sizes = {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "attention heads": config.num_attention_heads,
        "feed-forward width": config.intermediate_size,
        "mels": config.num_mel_bins,
        "subsampling": config.mel_frames_per_encoder_frame,
    }
    for name, attribute in (
        ("vocabulary with the blank", "vocab_size"),
        ("prediction network width", "decoder_hidden_size"),
        ("joint network width", "joint_hidden_size"),
    ):
        if hasattr(config, attribute):
            sizes[name] = getattr(config, attribute)
    return sizes


def _unusual_options(config: FastConformerConfig) -> dict[str, tuple[Any, Any]]:
    """Options whose value is not the default of our configuration, that is of most checkpoints."""
    usual = type(config)()
    inherited = {entry.name for entry in fields(PreTrainedConfig)}
    names = {entry.name for entry in fields(type(config))} - inherited - NO_OPTIONS
    return {
        name: (getattr(config, name), getattr(usual, name))
        for name in sorted(names)
        if getattr(config, name) != getattr(usual, name)
    }


def _describe_tokenizer(config: Mapping[str, Any], tokenizer: FastConformerTokenizer) -> str:
    section = config.get("tokenizer")
    kind = TOKENIZER_KINDS[str(section["type"]).lower()] if section else "characters"
    words = f"{kind}, {tokenizer.blank_token_id} tokens"
    if tokenizer.event_tokens:
        words += f", events {', '.join(tokenizer.event_tokens)}"
    return words


def _read_headers(
    found: Inspection,
    mapped: MappedConfig,
    headers: Mapping[str, TensorHeader],
    shapes: dict[str, tuple[int, ...]],
    path: Path,
    member_names: list[str],
) -> None:
    """Check that the tensors are those of the model, and note which have no place in it."""
    nemo_shapes = {name: header.shape for name, header in headers.items()}
    table = name_table(mapped.config, mapped.adapters_off)
    reasons = table.plan_reading(nemo_shapes, shapes, str(path)).left_out
    found.parts_left_out = describe_parts_left_out(reasons, member_names)
    if mapped.family == "multitask":
        found.parts_left_out.pop(TIMES_MODEL, None)  # converted, into a folder of its own
    for name, reason in reasons.items():
        if name.partition(".")[0] not in found.parts_left_out:
            found.dropped.setdefault(reason, []).append(name)
