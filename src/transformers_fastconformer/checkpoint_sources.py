"""
Sources of checkpoints in other formats, for the `from_pretrained` of this package's classes.

A source is a function that knows one other format: from the name that the user gave it makes a folder in our format,
or returns None. The modules that know those formats stand above the classes, so `auto.py` registers them here and the
classes do not import them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from .validation import reading

# Options that say which files of which repository are meant; a folder found by a source does not need them any more.
HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "_commit_hash",
)

# What a conversion keeps of the toolkit that a checkpoint comes from; models take it along.
ORIGINAL_CONFIG_FILE = "nemo_config.yaml"

Name = str | os.PathLike[str]


class CheckpointSource(Protocol):
    """A function that finds checkpoints of one other format."""

    def __call__(self, name: str, loaded_class: type, options: Mapping[str, Any]) -> str | os.PathLike[str] | None:
        """
        Find the folder of a checkpoint in our format.

        Args:
            name: The name that the user gave: a path or the id of a Hub repository.
            loaded_class: The class that `from_pretrained` was called on.
            options: All keyword arguments of the call, with those of `HUB_OPTIONS`.

        Returns:
            A folder in our format, or None for a checkpoint of another format.

        Raises:
            ValueError: for a checkpoint of this format that cannot be converted.
            OSError: for one that cannot be reached.
        """


_sources: dict[str, CheckpointSource] = {}


def register_source(format_name: str, source: CheckpointSource) -> None:
    """Ask `source` from now on, after those registered before it. Under a registered name it replaces the old one."""
    _sources[format_name] = source


def unregister_source(format_name: str) -> None:
    """Do not ask the source of that name any more; a name that is not registered is not an error."""
    _sources.pop(format_name, None)


def registered_sources() -> dict[str, CheckpointSource]:
    """Name to source, in the order in which they are asked."""
    return dict(_sources)


def resolve_checkpoint(name: Name, loaded_class: type, options: Mapping[str, Any]) -> str | None:
    """The folder of the first source that knows the checkpoint, or None; see [`CheckpointSource`]."""
    for source in list(_sources.values()):
        folder = source(os.fspath(name), loaded_class, options)
        if folder is not None:
            return os.fspath(folder)
    return None


@contextmanager
def loading(name: Name, writer: str) -> Iterator[None]:
    """
    Turn whatever loading a checkpoint throws into a `ValueError` that names it; see [`reading`].

    An `OSError` is Transformers' word for a name that holds no checkpoint, and stays one.

    Args:
        name: The checkpoint.
        writer: The class whose `save_pretrained` writes what is expected.
    """
    error_of_name: OSError | None = None
    with reading(os.fspath(name), f"the files that {writer}.save_pretrained writes"):
        try:
            yield
        except OSError as error:
            error_of_name = error
    if error_of_name is not None:
        raise error_of_name


def load_from_folder(
    load: Callable[..., Any], folder: str, name: Name, arguments: tuple[Any, ...], options: Mapping[str, Any]
) -> Any:
    """
    Call `load(folder, ...)` without the options that only name a repository, and let the result keep its name.

    The name is written into adapters and model cards as the base model, so it must not be a folder of the cache.
    """
    options = {key: value for key, value in options.items() if key not in HUB_OPTIONS}
    loaded = load(folder, *arguments, **options)
    # `output_loading_info` and `return_unused_kwargs` give a pair.
    found = loaded[0] if isinstance(loaded, tuple) else loaded
    _rename(found, folder, os.fspath(name))
    if hasattr(found, "loaded_folder"):
        found.loaded_folder = folder
    return loaded


def _rename(loaded: Any, folder: str, name: str) -> None:
    parts: list[Any] = [loaded, getattr(loaded, "config", None), getattr(loaded, "tokenizer", None)]
    for part in parts:
        if getattr(part, "name_or_path", None) == folder:
            part.name_or_path = name
            if isinstance(getattr(part, "init_kwargs", None), dict):  # a tokenizer keeps it twice
                part.init_kwargs["name_or_path"] = name


class LoadsFromSources:
    """Mixin that stands before a class of Transformers and lets its `from_pretrained` read the registered formats."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Load as in Transformers, from every registered format.

        Next to a folder or Hub repository in our format it takes `.nemo` files, and folders and repositories that hold
        one (see `docs/hub.md`).
        """
        load = super().from_pretrained  # type: ignore[misc]
        if pretrained_model_name_or_path is None:
            return load(None, *args, **kwargs)
        name = pretrained_model_name_or_path
        folder = resolve_checkpoint(name, cls, kwargs)
        with loading(name, cls.__name__):
            if folder is None:
                return load(name, *args, **kwargs)
            return load_from_folder(load, folder, name, args, kwargs)
