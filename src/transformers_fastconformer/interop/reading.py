"""
Checkpoints of Transformers' own FastConformer classes, read into our form.

None of those classes is needed: a folder of theirs is JSON and safetensors, and becomes a folder of ours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.files import (
    CONFIG_FILE,
    EXTRACTOR_FILE,
    PROCESSOR_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    read_json,
)
from ..checkpoints.model_classes import ARCHITECTURES, build_without_memory, shapes_of
from ..checkpoints.name_table import Target
from ..checkpoints.output_folder import check_output, written_as_one
from ..checkpoints.safetensors_writer import TensorEntry, parse_bytes, write_checkpoint
from ..checkpoints.stored_tensors import StoredTensors, main_dtype
from ..configuration_fastconformer import FastConformerConfig
from ..configuration_multitask import FastConformerMultitaskConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_fastconformer import FastConformerTokenizer
from ..validation import reading, require
from .config_form import config_from_transformers
from .extractor_form import extractor_from_transformers
from .families import FAMILY_OF_TYPE, Family
from .tokenizer_form import tokenizer_from_transformers
from .weight_names import TIED_HEAD, TOKEN_EMBEDDING, name_table


@dataclass(frozen=True)
class TransformersCheckpoint:
    """
    A checkpoint folder of Transformers' classes, understood but not converted.

    Args:
        folder: Where it is.
        family: The model type, and the classes here that it stands for.
        config: Our configuration.
        targets: The place of each of their tensors in our form, by their name.
        left_out: Names of tensors that have no place here, and the reasons.
        tokenizer: Our tokenizer for the folder's; None where it has none, and for an encoder without a head.
    """

    folder: Path
    family: Family
    config: FastConformerConfig
    targets: dict[str, Target]
    left_out: dict[str, str]
    tokenizer: FastConformerTokenizer | None

    def read_feature_extractor(self) -> FastConformerFeatureExtractor | None:
        """Our feature extractor for the folder's; None where it has none."""
        extractor_dict = read_json(self.folder / PROCESSOR_FILE).get("feature_extractor")
        source = self.folder / PROCESSOR_FILE
        if extractor_dict is None:
            source = self.folder / EXTRACTOR_FILE
            extractor_dict = read_json(source) or None
        if extractor_dict is None:
            return None
        with reading(str(source), "a feature extractor of a class of Transformers"):
            extractor = FastConformerFeatureExtractor(**extractor_from_transformers(extractor_dict, str(source)))
        if extractor.feature_size != self.config.num_mel_bins:
            raise ValueError(
                f"{source}: feature_size={extractor.feature_size} does not fit; expected "
                f"num_mel_bins={self.config.num_mel_bins}, which the encoder reads."
            )
        return extractor

    def read_processor(self) -> FastConformerProcessor | None:
        """Both in one; None where one of them is missing."""
        extractor = self.read_feature_extractor()
        if extractor is None or self.tokenizer is None:
            return None
        prompts: dict[str, Any] = {}
        if isinstance(self.config, FastConformerMultitaskConfig):
            prompts = {name: getattr(self.config, name) for name in ("prompt_format", "prompt_defaults")}
        return FastConformerProcessor(
            extractor, self.tokenizer, subsampling_factor=self.config.mel_frames_per_encoder_frame, **prompts
        )

    def read_state_dict(self) -> dict[str, torch.Tensor]:
        """All the tensors under our names and in our shapes."""
        stored = StoredTensors(self.folder)
        return {
            target.name: target.form.to_ours(stored.read(theirs), target.shape)
            for theirs, target in self.targets.items()
        }


def is_transformers_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """A folder that holds a checkpoint of one of the classes in `families.py`."""
    try:
        return str(read_json(Path(folder) / CONFIG_FILE).get("model_type")) in FAMILY_OF_TYPE
    except ValueError:
        return False


def read_transformers_checkpoint(folder: str | os.PathLike[str]) -> TransformersCheckpoint:
    """
    Understand a checkpoint folder that Transformers' `ParakeetFor*`, `ParakeetEncoder`, `NemotronAsrStreaming*` or
    `CanaryForConditionalGeneration` saved.

    Raises:
        ValueError: for another model type, an option that is not supported, and a tokenizer or tensors that do not
            fit the configuration; the message names them.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: no {CONFIG_FILE} found; expected the folder of a checkpoint.")
    family, config = config_from_transformers(read_json(path), read_json(folder / PROCESSOR_FILE), str(path))
    stored = StoredTensors(folder)
    our_shapes = shapes_of(build_without_memory(ARCHITECTURES[family.architecture], config))
    plan = name_table(family, config).plan_reading(stored.shapes, our_shapes, str(folder))
    _check_tied_head(stored, str(folder))
    tokenizer = _read_tokenizer(folder, config)
    return TransformersCheckpoint(folder, family, config, plan.targets, plan.left_out, tokenizer)


def _check_tied_head(stored: StoredTensors, source: str) -> None:
    """Refuse a head of a Canary that is not the embedding, where a file holds both."""
    if TIED_HEAD not in stored.shapes:
        return
    if not torch.equal(stored.read(TIED_HEAD), stored.read(TOKEN_EMBEDDING)):
        raise ValueError(f"{source}: {TIED_HEAD} differs from {TOKEN_EMBEDDING}; expected them to be tied.")


def _read_tokenizer(folder: Path, config: FastConformerConfig) -> FastConformerTokenizer | None:
    """Our tokenizer for the folder's, if there is one; what prompts are made of goes into the configuration."""
    path = folder / TOKENIZER_FILE
    vocab_size = getattr(config, "vocab_size", None)
    if vocab_size is None or not path.is_file():
        return None
    is_multitask = isinstance(config, FastConformerMultitaskConfig)
    with reading(str(path), "text in UTF-8"):
        tokenizer_json = path.read_text(encoding="utf-8")
    tokenizer = tokenizer_from_transformers(
        tokenizer_json,
        read_json(folder / TOKENIZER_CONFIG_FILE),
        None if is_multitask else vocab_size - 1,
        str(path),
        is_multitask,
    )
    if isinstance(config, FastConformerMultitaskConfig):
        num_tokens = tokenizer.blank_token_id
        require(num_tokens <= vocab_size, f"{path}: tokens", num_tokens, f"at most vocab_size={vocab_size}")
        for role in ("pad_token_id", "eos_token_id", "bos_token_id"):
            ours, theirs = getattr(tokenizer, role), getattr(config, role)
            require(ours == theirs, f"{path}: {role}", ours, f"{theirs}, as in {CONFIG_FILE}")
        config.num_tokens = num_tokens
        config.prompt_token_ids = tokenizer.prompt_token_ids
    return tokenizer


@dataclass(frozen=True)
class ImportResult:
    """
    The outcome of reading a folder of theirs.

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
    max_shard_bytes = parse_bytes(max_shard_size)
    output_dir = Path(output_dir)
    check_output(output_dir, overwrite)
    checkpoint = read_transformers_checkpoint(folder)
    config, stored = checkpoint.config, StoredTensors(checkpoint.folder)
    source_of = {target.name: (theirs, target) for theirs, target in checkpoint.targets.items()}
    entries = [TensorEntry(ours, target.shape, stored.dtypes[theirs]) for ours, (theirs, target) in source_of.items()]

    def fetch(name: str) -> torch.Tensor:
        theirs, target = source_of[name]
        return target.form.to_ours(stored.read(theirs), target.shape)

    extractor, processor = checkpoint.read_feature_extractor(), checkpoint.read_processor()
    tokenizer = checkpoint.tokenizer
    with written_as_one(output_dir, overwrite) as target:
        write_checkpoint(target, entries, fetch, max_shard_bytes)
        for part in (processor, extractor, tokenizer):
            if part is not None:
                part.save_pretrained(target)
        config.architectures = [checkpoint.family.architecture]
        config.dtype = main_dtype(entries)
        config.save_pretrained(target)  # last: a folder without it is no checkpoint to any loader
    return ImportResult(output_dir, checkpoint, sorted(path.name for path in output_dir.iterdir()))
