"""Packages of the extra `train`, which are imported where they are used."""

from __future__ import annotations

from importlib.util import find_spec

INSTALL_COMMAND = "pip install 'transformers-fastconformer[train]'"


def require_package(name: str) -> None:
    """
    Refuse to go on without a package.

    Raises:
        ImportError: it is not installed; the message holds the command.
    """
    if find_spec(name) is None:
        raise ImportError(f"Fine-tuning needs {name}, which is not installed: {INSTALL_COMMAND}")
