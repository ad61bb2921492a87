"""Folders in our own format, looked at before Transformers loads them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from ..configuration_fastconformer import FastConformerConfig
from ..tokenization_checks import check_added_tokens
from ..validation import reading
from .files import (
    CONFIG_FILE,
    EXTRACTOR_FILE,
    GENERATION_FILE,
    PROCESSOR_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    read_json,
)
from .model_classes import CONFIG_CLASSES
from .safetensors_writer import INDEX_FILE, SINGLE_FILE
from .stored_tensors import StoredTensors

# Fewer weights that are missing are left to Transformers, whose report names them.
MAX_FRESH = 2**24
CHECKED_FILES = (CONFIG_FILE, GENERATION_FILE, EXTRACTOR_FILE, PROCESSOR_FILE, TOKENIZER_CONFIG_FILE)


def check_own_folder(name: str, loaded_class: type, options: Mapping[str, Any]) -> None:
    """
    Refuse a local folder in our format that is damaged. A source of `checkpoint_sources` that finds nothing: what it
    does not refuse is loaded in Transformers' way.

    Transformers takes defaults for some files that cannot be read, and makes a model of any declared size before it
    looks at the weights.

    Args:
        name: A folder; anything else is passed over.
        loaded_class: The class that `from_pretrained` was called on.
        options: Its keyword arguments.

    Raises:
        ValueError: for a file that is not a JSON object, a configuration that is refused, weights that cannot be
            read, and fewer weights than the configuration declares.
    """
    folder = Path(name) / str(options.get("subfolder") or "")
    if not (Path(name).is_dir() and folder.is_dir()):
        return
    if not is_own_folder(folder):
        return
    for file_name in CHECKED_FILES:
        read_json(folder / file_name)
    if issubclass(loaded_class, PreTrainedTokenizerBase | ProcessorMixin):
        path = folder / TOKENIZER_FILE
        state = read_json(path)
        # Transformers makes tokens of its entries before our class sees them.
        with reading(str(path), "the JSON of a tokenizer"):
            check_added_tokens(state)
    if issubclass(loaded_class, PreTrainedModel) and options.get("state_dict") is None:
        _check_weights(folder)


def is_own_folder(folder: str | os.PathLike[str]) -> bool:
    """A folder whose configuration is one of this package, or cannot be read where the other files are of it."""
    try:
        return str(read_json(Path(folder) / CONFIG_FILE).get("model_type")) in CONFIG_CLASSES
    except ValueError:
        # Whose it is is told by the other files.
        return any(_names_us(Path(folder) / name) for name in (EXTRACTOR_FILE, PROCESSOR_FILE, TOKENIZER_CONFIG_FILE))


def _names_us(path: Path) -> bool:
    try:
        content = read_json(path)
    except ValueError:
        return False
    return any(str(content.get(key, "")).startswith("FastConformer") for key in ("processor_class", "tokenizer_class"))


def _check_weights(folder: Path) -> None:
    """Refuse weights that are cut off, or that are fewer than the configuration says."""
    if not ((folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()):
        return  # another format of weights, or a file that is missing: Transformers says so
    config_dict = read_json(folder / CONFIG_FILE)
    stored = StoredTensors(folder)
    if not config_dict or "quantization_config" in config_dict:
        return  # quantised weights may be packed
    with reading(str(folder / CONFIG_FILE), "a configuration as save_pretrained writes it"):
        config = CONFIG_CLASSES[config_dict["model_type"]].from_dict(config_dict)
    num_declared = FastConformerConfig.estimate_parameters(config)  # heads may be fresh
    num_stored = sum(map(math.prod, stored.shapes.values()))
    if num_declared > num_stored + MAX_FRESH:
        raise ValueError(
            f"{folder}: {CONFIG_FILE} declares at least {num_declared} weights of the encoder "
            f"(num_hidden_layers={config.num_hidden_layers}, hidden_size={config.hidden_size}) and the files hold "
            f"{num_stored}; expected as many as are declared."
        )
