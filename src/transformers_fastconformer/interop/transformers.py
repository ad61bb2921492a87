"""
Checkpoints of Transformers' own FastConformer classes, both ways.

Reading needs none of those classes: a folder of theirs is JSON and safetensors, and becomes a folder of ours. Writing
builds the class on the meta device, so that names and shapes are those that it loads.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import logging

from ..checkpoints.safetensors_writer import INDEX_FILE, SINGLE_FILE, TensorEntry, parse_bytes, write_checkpoint
from ..configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..nemo.cache import resolve_nemo_checkpoint
from ..nemo.convert import ARCHITECTURES, _written_as_one
from ..nemo.convert import _check_output as check_output
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_fastconformer import FastConformerTokenizer
from .config_tables import (
    TIMESTAMP_OPTIONS,
    config_from_transformers,
    config_to_transformers,
    extractor_from_transformers,
    extractor_to_transformers,
    look_aheads_of,
    options_left_out,
)
from .families import FAMILY_OF_TYPE, Family
from .model_card import CARD_FILE, write_card
from .tokenizer_form import tokenizer_from_transformers, tokenizer_to_transformers
from .weight_names import Row, can_widen, our_name_of, rows_for, their_name_of, widen

logger = logging.get_logger(__name__)

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "processor_config.json"
EXTRACTOR_FILE = "preprocessor_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
OUR_CONFIGS: dict[str, type[FastConformerConfig]] = {
    config_class.model_type: config_class
    for config_class in (
        FastConformerConfig,
        FastConformerCTCConfig,
        FastConformerRNNTConfig,
        FastConformerTDTConfig,
    )
}
Shape = tuple[int, ...]


# Tensors on disk


class StoredTensors:
    """
    Tensors of a checkpoint folder, read one by one.

    Args:
        folder: Folder with `model.safetensors`, or its shards and their index.

    Raises:
        ValueError: where there are none.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / INDEX_FILE
        if (folder / SINGLE_FILE).is_file():
            files = [SINGLE_FILE]
        elif index.is_file():
            files = shard_names(index)
        else:
            raise ValueError(f"{folder}: no weights found; expected {SINGLE_FILE} or {INDEX_FILE}.")
        self._path_of: dict[str, Path] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for name in files:
            path = folder / name
            with _opened(path) as stored:
                for key in stored.keys():  # noqa: SIM118
                    tensor = stored.get_slice(key)
                    self._path_of[key] = path
                    self.shapes[key] = tuple(tensor.get_shape())
                    self.dtypes[key] = _dtype_of(tensor.get_dtype())

    def read(self, name: str) -> torch.Tensor:
        """One tensor; the file is mapped for it alone, so that what was read leaves memory."""
        with _opened(self._path_of[name]) as stored:
            return stored.get_tensor(name)


def shard_names(index: Path) -> list[str]:
    """
    The files that an index of shards names.

    Raises:
        ValueError: for an index that is none, and for a name that leads out of its folder.
    """
    weight_map = _read_json(index).get("weight_map")
    if not (isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())):
        raise ValueError(f"{index}: no 'weight_map' of tensors to file names found; expected the index of shards.")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"{index}: {outside[0]!r} is not supported; expected names of files in that folder.")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        stored = safe_open(str(path), framework="pt")
    except Exception as error:
        raise ValueError(f"{path}: {error}; expected a safetensors file.") from error
    with stored as opened:
        yield opened


def _dtype_of(name: str) -> torch.dtype:
    dtypes = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
    }
    if name not in dtypes:
        raise ValueError(f"dtype={name!r} is not supported; expected one of {sorted(dtypes)}.")
    return dtypes[name]


class ModelTensors:
    """Tensors of a model in memory, as [`StoredTensors`]."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._tensors = dict(model.state_dict())
        self.shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in self._tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name].detach().to("cpu")


def _main_dtype(entries: list[TensorEntry]) -> torch.dtype:
    """The type that most bytes of the weights have."""
    num_bytes: dict[torch.dtype, int] = {}
    for entry in entries:
        if entry.dtype.is_floating_point:
            num_bytes[entry.dtype] = num_bytes.get(entry.dtype, 0) + entry.num_bytes
    return max(num_bytes, key=lambda dtype: num_bytes[dtype]) if num_bytes else torch.float32


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected JSON.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}; expected an object.")
    return content


# Reading


@dataclass(frozen=True)
class TransformersCheckpoint:
    """
    A checkpoint folder of Transformers' classes, understood but not converted.

    Args:
        folder: Where it is.
        family: The model type, and what it is here.
        config: Our configuration.
        names: Their name of each tensor and ours.
        pointwise: Names of theirs whose last dimension, 1, is not there in ours.
        left_out: Names of tensors that have no place here, and the reasons.
    """

    folder: Path
    family: Family
    config: FastConformerConfig
    names: dict[str, str]
    pointwise: frozenset[str]
    left_out: dict[str, str]

    def read_feature_extractor(self) -> FastConformerFeatureExtractor | None:
        """Our feature extractor for the folder's; None where it has none."""
        extractor_dict = _read_json(self.folder / PROCESSOR_FILE).get("feature_extractor")
        source = self.folder / PROCESSOR_FILE
        if extractor_dict is None:
            source = self.folder / EXTRACTOR_FILE
            extractor_dict = _read_json(source) or None
        if extractor_dict is None:
            return None
        extractor = FastConformerFeatureExtractor(**extractor_from_transformers(extractor_dict, str(source)))
        if extractor.feature_size != self.config.num_mel_bins:
            raise ValueError(
                f"{source}: feature_size={extractor.feature_size} does not fit; expected "
                f"num_mel_bins={self.config.num_mel_bins}, which the encoder reads."
            )
        return extractor

    def read_tokenizer(self) -> FastConformerTokenizer | None:
        """Our tokenizer for the folder's; None where it has none, and for an encoder alone."""
        path = self.folder / TOKENIZER_FILE
        vocab_size = getattr(self.config, "vocab_size", None)
        if vocab_size is None or not path.is_file():
            return None
        tokenizer_config = _read_json(self.folder / TOKENIZER_CONFIG_FILE)
        return tokenizer_from_transformers(
            path.read_text(encoding="utf-8"), tokenizer_config, vocab_size - 1, str(path)
        )

    def read_processor(self) -> FastConformerProcessor | None:
        """Both in one; None where one of them is missing."""
        extractor, tokenizer = self.read_feature_extractor(), self.read_tokenizer()
        if extractor is None or tokenizer is None:
            return None
        return FastConformerProcessor(
            extractor, tokenizer, subsampling_factor=self.config.mel_frames_per_encoder_frame
        )

    def read_state_dict(self) -> dict[str, torch.Tensor]:
        """All the tensors under our names and in our shapes."""
        stored = StoredTensors(self.folder)
        return {
            ours: stored.read(theirs).squeeze(-1) if theirs in self.pointwise else stored.read(theirs)
            for theirs, ours in self.names.items()
        }


def is_transformers_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a checkpoint of one of the classes in `families.py`."""
    try:
        return _read_json(Path(folder) / CONFIG_FILE).get("model_type") in FAMILY_OF_TYPE
    except ValueError:
        return False


def read_transformers_checkpoint(folder: str | os.PathLike[str]) -> TransformersCheckpoint:
    """
    Understand a checkpoint folder that Transformers' `ParakeetFor*`, `ParakeetEncoder`, `NemotronAsrStreaming*` or
    `CanaryForConditionalGeneration` saved; of the last the encoder alone.

    Raises:
        ValueError: for another model type, an option that is not supported, and tensors that do not fit the
            configuration; the message names them.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: no {CONFIG_FILE} found; expected the folder of a checkpoint.")
    family, config = config_from_transformers(_read_json(path), _read_json(folder / PROCESSOR_FILE), str(path))
    stored = StoredTensors(folder)
    rows = rows_for(family, config)
    names: dict[str, str] = {}
    pointwise: set[str] = set()
    left_out: dict[str, str] = {}
    unknown, wrong = [], []
    our_shapes = _our_shapes(family.architecture, config)
    for theirs, shape in stored.shapes.items():
        reason = next((reason for start, reason in family.left_out if theirs.startswith(start)), None)
        if reason is not None:
            left_out[theirs] = reason
            continue
        found = our_name_of(theirs, rows)
        if found is None or found[0] not in our_shapes:
            unknown.append(theirs)
            continue
        ours, row = found
        names[theirs] = ours
        expected = our_shapes[ours]
        if row.squeezes(ours):
            pointwise.add(theirs)
            expected = (*expected, 1)
        if shape != expected:
            wrong.append(f"{theirs} is {shape}, expected {expected}")
    met = set(names.values())
    missing = [_their_name(name, rows) for name in our_shapes if name not in met]
    _check_fit(str(folder), unknown, wrong, missing)
    return TransformersCheckpoint(folder, family, config, names, frozenset(pointwise), left_out)


def _their_name(our_name: str, rows: tuple[Row, ...]) -> str:
    found = their_name_of(our_name, rows)
    return found[0] if found else our_name


def _our_shapes(architecture: str, config: FastConformerConfig) -> dict[str, Shape]:
    with torch.device("meta"):
        model = ARCHITECTURES[architecture](config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_fit(source: str, unknown: list[str], wrong: list[str], missing: list[str]) -> None:
    faults = [
        f"{what}: {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        for what, names in (
            ("tensors of the wrong shape", wrong),
            ("missing tensors", missing),
            ("tensors that are not supported", unknown),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{source}: the weights do not fit their configuration; {'; '.join(faults)}.")


@dataclass(frozen=True)
class ImportResult:
    """
    What reading a folder of theirs made.

    Args:
        output_dir: The folder in our form.
        checkpoint: What was read.
        files: Names of the files in `output_dir`.
    """

    output_dir: Path
    checkpoint: TransformersCheckpoint
    files: list[str]


def convert_transformers_checkpoint(
    folder: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
) -> ImportResult:
    """
    Turn a checkpoint folder of Transformers' classes into one of ours, with tokenizer and feature extractor where it
    has them. Nothing appears at `output_dir` before everything is written; memory holds one tensor at a time.

    Args:
        folder: What `ParakeetForCTC.save_pretrained` and its kin wrote.
        output_dir: Folder to make. It must not exist, be empty, or be replaced on request.
        max_shard_size: Most bytes of weights in a file, as a number or text such as `"5GB"`.
        overwrite: Replace what is at `output_dir`.

    Raises:
        ValueError: for whatever is wrong with the folder, as in `read_transformers_checkpoint`.
    """
    most_shard_bytes = parse_bytes(max_shard_size)
    output_dir = Path(output_dir)
    check_output(output_dir, overwrite)
    checkpoint = read_transformers_checkpoint(folder)
    config, stored = checkpoint.config, StoredTensors(checkpoint.folder)
    their_name = {ours: theirs for theirs, ours in checkpoint.names.items()}
    entries = []
    for ours, theirs in their_name.items():
        shape = stored.shapes[theirs]
        entries.append(
            TensorEntry(ours, shape[:-1] if theirs in checkpoint.pointwise else shape, stored.dtypes[theirs])
        )

    def fetch(name: str) -> torch.Tensor:
        tensor = stored.read(their_name[name])
        return tensor.squeeze(-1) if their_name[name] in checkpoint.pointwise else tensor

    extractor, processor = checkpoint.read_feature_extractor(), checkpoint.read_processor()
    tokenizer = processor.tokenizer if processor is not None else checkpoint.read_tokenizer()
    with _written_as_one(output_dir, overwrite) as target:
        write_checkpoint(target, entries, fetch, most_shard_bytes)
        for part in (processor, extractor, tokenizer):
            if part is not None:
                part.save_pretrained(target)
        config.architectures = [checkpoint.family.architecture]
        config.dtype = _main_dtype(entries)
        config.save_pretrained(target)  # last: a folder without it is no checkpoint to any loader
    if checkpoint.left_out:
        logger.warning(
            f"{folder}: the encoder of {checkpoint.family.class_name} alone is read; {len(checkpoint.left_out)} "
            "tensors are left out."
        )
    return ImportResult(output_dir, checkpoint, sorted(path.name for path in output_dir.iterdir()))


# Writing


@dataclass(frozen=True)
class ExportResult:
    """
    What writing in their form made.

    Args:
        output_dir: The folder that `class_name` loads.
        class_name: The class of Transformers.
        options_left_out: Options of ours that it has no place for, of training and of timestamps, with the reasons.
        tensors_left_out: Tensors of ours that are not written (the other head of a hybrid), with the reasons.
        files: Names of the files in `output_dir`.
    """

    output_dir: Path
    class_name: str
    options_left_out: dict[str, str] = field(default_factory=dict)
    tensors_left_out: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def export_to_transformers(
    source: str | os.PathLike[str] | PreTrainedModel,
    output_dir: str | os.PathLike[str],
    *,
    head: str | None = None,
    processor: FastConformerProcessor | FastConformerFeatureExtractor | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
) -> ExportResult:
    """
    Write a checkpoint that Transformers' own classes load: `ParakeetForCTC`, `ParakeetForRNNT`, `ParakeetForTDT`,
    `ParakeetEncoder`, `NemotronAsrStreamingForRNNT` or `NemotronAsrStreamingEncoder`, whichever the model is one of.

    Args:
        source: A folder in our form, one of our models, or a `.nemo` checkpoint (a file, a folder or Hub repository
            with one), which is converted into the cache first.
        output_dir: Folder to make. It must not exist, be empty, or be replaced on request.
        head: Of a hybrid, the head to write: `"transducer"` or `"ctc"`.
        processor: Beside a model, its processor or (for an encoder) feature extractor; a folder has its own.
        max_shard_size: Most bytes of weights in a file, as a number or text such as `"5GB"`.
        overwrite: Replace what is at `output_dir`.

    Raises:
        ValueError: naming an option that their class cannot express, its value and what is accepted; for a class that
            the installed Transformers does not have; for an output folder that is in use.
    """
    most_shard_bytes = parse_bytes(max_shard_size)
    output_dir = Path(output_dir)
    check_output(output_dir, overwrite)
    tensors: StoredTensors | ModelTensors
    source_card = None
    if isinstance(source, PreTrainedModel):
        if not isinstance(source.config, FastConformerConfig):
            raise ValueError(
                f"source of type {type(source).__name__} is not supported; expected a folder or a FastConformer model."
            )
        config, tensors = source.config, ModelTensors(source)
    else:
        if processor is not None:
            raise ValueError("processor: a folder has its own; expected None with a folder.")
        folder = Path(resolve_nemo_checkpoint(source) or source)
        config, tensors = _our_config(folder), StoredTensors(folder)
        processor = _our_processor(folder)
        card = folder / CARD_FILE
        source_card = card.read_text(encoding="utf-8") if card.is_file() else None
    family, values = config_to_transformers(config, head)
    model_class, their_config = _their_class(family), _their_class_of(family.config_class_name, family)(**values)
    sources, left_out = _plan_export(family, config, tensors, model_class, their_config)
    parts = _their_processor(processor, family, config) if processor is not None else []

    entries = [TensorEntry(name, shape, tensors.dtypes[ours]) for name, (ours, shape) in sources.items()]

    def fetch(name: str) -> torch.Tensor:
        ours, shape = sources[name]
        tensor = tensors.read(ours)
        # A pointwise convolution has a last dimension of 1 there.
        return widen(tensor.unsqueeze(-1) if len(shape) > tensor.ndim else tensor, ours, shape)

    with _written_as_one(output_dir, overwrite) as target:
        write_checkpoint(target, entries, fetch, most_shard_bytes)
        for part in parts:
            part.save_pretrained(target)
        generation_config = _generation_config(their_config, family)
        if generation_config is not None:
            generation_config.save_pretrained(target)
        write_card(target, family, source_card)
        their_config.architectures = [family.class_name]
        their_config.dtype = _main_dtype(entries)
        their_config.save_pretrained(target)
    return ExportResult(
        output_dir,
        family.class_name,
        options_left_out(config, family) | _timestamp_options_left_out(processor),
        left_out,
        sorted(path.name for path in output_dir.iterdir()),
    )


def _timestamp_options_left_out(processor: Any) -> dict[str, str]:
    if not isinstance(processor, FastConformerProcessor):
        return {}
    default = FastConformerProcessor(processor.feature_extractor, processor.tokenizer)
    changed = [name for name in TIMESTAMP_OPTIONS if getattr(processor, name) != getattr(default, name)]
    return dict.fromkeys(changed, "of timestamps; theirs has tokens alone")


def _our_config(folder: Path) -> FastConformerConfig:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a converted or saved checkpoint, or a .nemo checkpoint.")
    config_dict = _read_json(folder / CONFIG_FILE)
    model_type = config_dict.get("model_type")
    if model_type not in OUR_CONFIGS:
        raise ValueError(
            f"{folder}: model_type={model_type!r} is not supported; expected one of {sorted(OUR_CONFIGS)}, in the "
            f"{CONFIG_FILE} of a converted or saved checkpoint."
        )
    return OUR_CONFIGS[model_type].from_pretrained(folder)


def _our_processor(folder: Path) -> FastConformerProcessor | FastConformerFeatureExtractor | None:
    if (folder / PROCESSOR_FILE).is_file():
        return FastConformerProcessor.from_pretrained(folder)
    if (folder / EXTRACTOR_FILE).is_file():
        return FastConformerFeatureExtractor.from_pretrained(folder)
    return None


def _their_class_of(name: str, family: Family) -> Any:
    found = getattr(transformers, name, None)
    if found is None:
        raise ValueError(
            f"{family.class_name} is not in transformers {transformers.__version__}; expected a release that has it."
        )
    return found


def _their_class(family: Family) -> type[PreTrainedModel]:
    return _their_class_of(family.class_name, family)


def _plan_export(
    family: Family,
    config: FastConformerConfig,
    tensors: StoredTensors | ModelTensors,
    model_class: type[PreTrainedModel],
    their_config: Any,
) -> tuple[dict[str, tuple[str, Shape]], dict[str, str]]:
    """Our stored name and their shape for each name of theirs; and our tensors that are not written."""
    with torch.device("meta"):
        model = model_class(their_config)
    their_shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    rows = rows_for(family, config)
    # An encoder that was saved by itself has its tensors at the top.
    is_bare = any(name.startswith("subsampling.") for name in tensors.shapes)
    stored_name = {f"encoder.{name}" if is_bare else name: name for name in tensors.shapes}
    if config.tie_position_biases:
        for index in range(1, config.num_hidden_layers):
            for bias in ("bias_u", "bias_v"):
                first = stored_name[f"encoder.layers.0.self_attn.{bias}"]
                stored_name.setdefault(f"encoder.layers.{index}.self_attn.{bias}", first)
    sources: dict[str, tuple[str, Shape]] = {}
    wrong, left_out = [], {}
    for ours, stored in stored_name.items():
        found = their_name_of(ours, rows)
        if found is None or found[0] not in their_shapes:
            left_out[ours] = f"{family.class_name} has no place for it"
            continue
        theirs, row = found
        shape = (*tensors.shapes[stored], 1) if row.squeezes(ours) else tensors.shapes[stored]
        if shape != their_shapes[theirs] and not can_widen(ours, shape, their_shapes[theirs]):
            wrong.append(f"{ours} is {tensors.shapes[stored]}, expected {their_shapes[theirs]} as {theirs}")
        sources[theirs] = (stored, their_shapes[theirs])
    missing = [name for name in their_shapes if name not in sources]
    other_heads = ("ctc_head.", "decoder.", "joint.") if family.model_type != "parakeet_tdt" else ("ctc_head.",)
    unknown = [name for name in left_out if not name.startswith(other_heads)]
    _check_fit(family.class_name, unknown, wrong, missing)
    return {name: sources[name] for name in their_shapes}, left_out


def _generation_config(their_config: Any, family: Family) -> Any:
    """What `generate` of their transducers needs: it starts with the blank and takes no duration for a token."""
    if not issubclass(family.config_class, FastConformerRNNTConfig):
        return None
    durations = getattr(their_config, "durations", ())
    vocab_size, blank_token_id = their_config.vocab_size, their_config.blank_token_id
    return transformers.GenerationConfig(
        decoder_start_token_id=blank_token_id,
        pad_token_id=blank_token_id,
        suppress_tokens=list(range(vocab_size, vocab_size + len(durations))) or None,
    )


def _their_processor(processor: Any, family: Family, config: FastConformerConfig) -> list[Any]:
    """Their feature extractor, and for models with a head the processor with their tokenizer."""
    is_whole = isinstance(processor, FastConformerProcessor)
    extractor = processor.feature_extractor if is_whole else processor
    class_name, values = extractor_to_transformers(extractor, family)
    their_extractor = _their_class_of(class_name, family)(**values)
    if not is_whole or family.is_encoder_alone:
        return [their_extractor]
    backend, arguments = tokenizer_to_transformers(processor.tokenizer, family)
    tokenizer = _their_class_of("ParakeetTokenizer", family)(tokenizer_object=backend, **arguments)
    options: dict[str, Any] = {}
    if family.is_streaming:
        options["supported_num_lookahead_tokens"] = look_aheads_of(config)
        options["default_num_lookahead_tokens"] = config.attention_context[1]
    else:
        options["decoder_type"] = family.model_type.removeprefix("parakeet_")
    processor_name = "NemotronAsrStreamingProcessor" if family.is_streaming else "ParakeetProcessor"
    if family.has_prompts:
        processor_name = "Nemotron3_5AsrProcessor"
        options["prompt_dictionary"] = dict(getattr(config, "prompt_languages", None) or {})
        options["num_prompts"] = getattr(config, "num_prompts", 0)
    processor_class: Callable[..., Any] = _their_class_of(processor_name, family)
    accepted: Mapping[str, Any] = inspect.signature(processor_class).parameters
    options["blank_token"] = arguments["pad_token"]
    options = {name: value for name, value in options.items() if name in accepted}
    return [processor_class(their_extractor, tokenizer, **options)]
