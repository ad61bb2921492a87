"""A checkpoint of this package with all that belongs to it, opened to be written in another form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from ..checkpoint_sources import resolve_checkpoint
from ..configuration_fastconformer import FastConformerConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..modeling.encoder import FastConformerModel
from ..processing_fastconformer import FastConformerProcessor
from .files import CARD_FILE, CONFIG_FILE, EXTRACTOR_FILE, PROCESSOR_FILE, read_json
from .model_classes import CONFIG_CLASSES
from .name_table import Shape
from .stored_tensors import ModelTensors, StoredTensors, TensorSource

OurProcessor = FastConformerProcessor | FastConformerFeatureExtractor


@dataclass(frozen=True)
class OurCheckpoint:
    """
    A model of ours with what belongs to it.

    Args:
        config: Its configuration.
        tensors: Its weights.
        processor: Its processor or, of an encoder, feature extractor, if there is one.
        card: The text of its card, if there is one.
        folder: The folder that it was read from; None for a model in memory.
    """

    config: FastConformerConfig
    tensors: TensorSource
    processor: OurProcessor | None = None
    card: str | None = None
    folder: Path | None = None


def open_our_checkpoint(
    source: str | os.PathLike[str] | PreTrainedModel, processor: OurProcessor | None = None
) -> OurCheckpoint:
    """
    Open a checkpoint without reading its weights.

    Args:
        source: A folder in our form, one of our models, or a checkpoint that `from_pretrained` converts on the way.
        processor: Next to a model, its processor or (for an encoder) feature extractor; a folder has its own.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(source, PreTrainedModel):
        if not isinstance(source.config, FastConformerConfig):
            raise ValueError(
                f"source of type {type(source).__name__} is not supported; expected a folder or a FastConformer model."
            )
        return OurCheckpoint(source.config, ModelTensors(source), processor)
    if processor is not None:
        raise ValueError("processor: a folder has its own; expected None with a folder.")
    folder = _our_folder(source)
    config = _our_config(folder)
    card = folder / CARD_FILE
    return OurCheckpoint(
        config,
        StoredTensors(folder),
        _our_processor(folder),
        card.read_text(encoding="utf-8") if card.is_file() else None,
        folder,
    )


def _our_folder(source: str | os.PathLike[str]) -> Path:
    """The folder itself, or the one that a registered source converts the checkpoint into."""
    folder = Path(source)
    if (folder / CONFIG_FILE).is_file():
        return folder
    return Path(resolve_checkpoint(source, FastConformerModel, {}) or source)


def _our_config(folder: Path) -> FastConformerConfig:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a converted or saved checkpoint, or a .nemo checkpoint.")
    model_type = read_json(folder / CONFIG_FILE).get("model_type")
    if model_type not in CONFIG_CLASSES:
        raise ValueError(
            f"{folder}: model_type={model_type!r} is not supported; expected one of {sorted(CONFIG_CLASSES)}, in the "
            f"{CONFIG_FILE} of a converted or saved checkpoint."
        )
    return CONFIG_CLASSES[model_type].from_pretrained(folder)


def _our_processor(folder: Path) -> OurProcessor | None:
    if (folder / PROCESSOR_FILE).is_file():
        return FastConformerProcessor.from_pretrained(folder)
    if (folder / EXTRACTOR_FILE).is_file():
        return FastConformerFeatureExtractor.from_pretrained(folder)
    return None


def stored_names(config: FastConformerConfig, stored_shapes: Mapping[str, Shape]) -> dict[str, str]:
    """The name in the file or model for each of our names; tied tensors are there once."""
    # An encoder that was saved by itself has its tensors at the top.
    is_bare = any(name.startswith("subsampling.") for name in stored_shapes)
    stored_name = {f"encoder.{name}" if is_bare else name: name for name in stored_shapes}
    if config.tie_position_biases:
        for index in range(1, config.num_hidden_layers):
            for bias in ("bias_u", "bias_v"):
                first = stored_name[f"encoder.layers.0.self_attn.{bias}"]
                stored_name.setdefault(f"encoder.layers.{index}.self_attn.{bias}", first)
    return stored_name
