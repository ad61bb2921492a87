"""Checkpoints of Transformers' own classes for the `from_pretrained` of ours: found, converted once, kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging
from transformers.utils.hub import cached_file

from ..checkpoints.files import (
    CONFIG_FILE,
    EXTRACTOR_FILE,
    PROCESSOR_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    is_apple_double,
    read_json,
)
from ..checkpoints.hub import (
    blob_digest,
    check_download,
    download_options,
    is_hub_id,
    snapshot_commit,
    was_unreachable,
)
from ..checkpoints.safetensors_writer import INDEX_FILE, SINGLE_FILE
from ..checkpoints.store import cache_folder, cached_conversion, local_digest
from ..checkpoints.stored_tensors import shard_names
from ..configuration_fastconformer import FastConformerConfig
from .families import FAMILY_OF_TYPE
from .reading import convert_transformers_checkpoint, is_transformers_checkpoint

logger = logging.get_logger(__name__)

OPTIONAL_FILES = (PROCESSOR_FILE, EXTRACTOR_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
# Raised when this module gives other files for the same input than before.
INTEROP_FORMAT = 2


def resolve_transformers_checkpoint(
    name: str | os.PathLike[str], loaded_class: type | None = None, options: Mapping[str, Any] | None = None
) -> str | None:
    """
    The folder in our form for a checkpoint of Transformers' own classes, converted if that was not done before; None
    for anything else. A source of `checkpoint_sources`.

    Args:
        name: A folder or the id of a Hub repository.
        loaded_class: The class that is loading; a model with a head must be that of the checkpoint.
        options: Those of `from_pretrained`: `revision`, `token`, `subfolder` and others as everywhere in Transformers.

    Raises:
        ValueError: for a checkpoint that cannot be read, and for another head than it has.
        OSError: for weights that cannot be downloaded, in the words of Transformers.
    """
    options = options or {}
    folder = _find_folder(os.fspath(name), options)
    if folder is None:
        return None
    _check_class(folder, str(name), loaded_class)
    return str(_converted_folder(folder, os.fspath(name), options))


def _find_folder(name: str, options: Mapping[str, Any]) -> Path | None:
    """The folder of a checkpoint of theirs, downloaded where it is on the Hub."""
    subfolder = str(options.get("subfolder") or "")
    path = Path(name)
    if path.exists():
        folder = path / subfolder
        return folder if folder.is_dir() and is_transformers_checkpoint(folder) else None
    if not is_hub_id(name):
        return None
    download = {**download_options(options), "subfolder": subfolder}
    if was_unreachable():
        download["local_files_only"] = True
    missing_is_none = {
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    try:
        config_path = cached_file(name, CONFIG_FILE, **download, **missing_is_none)
    except OSError:
        return None  # whoever loads it in the usual way says why
    if config_path is None or not is_transformers_checkpoint(Path(config_path).parent):
        return None
    commit = snapshot_commit(config_path)
    if commit is not None:
        # The other files of the same commit: what is in the cache is not asked for again.
        download["revision"] = commit
    for file_name in OPTIONAL_FILES:
        cached_file(name, file_name, **download, **missing_is_none)
    if cached_file(name, SINGLE_FILE, **download, **missing_is_none) is None:
        index_path = cached_file(name, INDEX_FILE, **download)
        assert index_path is not None  # it raises for what is missing
        for shard in shard_names(Path(index_path)):
            cached_file(name, shard, **download)
    return Path(config_path).parent


def _check_class(folder: Path, name: str, loaded_class: type | None) -> None:
    """Raise for a model class whose head the checkpoint does not have: it would be made up at random."""
    if loaded_class is None or not issubclass(loaded_class, PreTrainedModel):
        return
    family = FAMILY_OF_TYPE[read_json(folder / CONFIG_FILE)["model_type"]]
    if loaded_class.config_class not in (FastConformerConfig, family.config_class):
        raise ValueError(
            f"{name} holds a {family.class_name}, which {loaded_class.__name__} does not load; expected "
            f"{family.architecture}{'' if family.architecture == 'FastConformerModel' else ' or FastConformerModel'}."
        )


def _converted_folder(folder: Path, source: str, options: Mapping[str, Any]) -> Path:
    """The converted form in the cache; of several processes one converts and the others wait."""
    root = cache_folder(options.get("cache_dir"))

    def convert(target: Path) -> None:
        for path in _files_that_are_read(folder):
            check_download(path, source, path.name)
        convert_transformers_checkpoint(folder, target, overwrite=True)

    return cached_conversion(_digest_of(folder, root), source, convert, root)


def _digest_of(folder: Path, root: Path) -> str:
    """One digest for the files that are read."""
    digest = hashlib.sha256(f"transformers {INTEROP_FORMAT}".encode())
    for path in _files_that_are_read(folder):
        digest.update(f"\n{path.name} {blob_digest(path) or local_digest(path, root)}".encode())
    return digest.hexdigest()


def _files_that_are_read(folder: Path) -> list[Path]:
    names = (CONFIG_FILE, INDEX_FILE, *OPTIONAL_FILES)
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and (path.name in names or (path.suffix == ".safetensors" and not is_apple_double(path.name)))
    ]
