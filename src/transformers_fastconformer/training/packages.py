"""Packages of the extra `train`, which are imported where they are used."""

from __future__ import annotations

from importlib.util import find_spec

INSTALL_COMMAND = "pip install 'transformers-fastconformer[train]'"


def require_package(name: str, purpose: str = "Fine-tuning") -> None:
    """
    Refuse to go on without a package.

    Args:
        name: The module that is imported.
        purpose: The subject of the message, which needs it.

    Raises:
        ImportError: it is not installed; the message holds the command.
    """
    if find_spec(name) is None:
        raise ImportError(f"{purpose} needs {name}: {INSTALL_COMMAND}")
