"""Packages of the extra `ray`, imported where they are used."""

from __future__ import annotations

from types import ModuleType

INSTALL_COMMAND = 'pip install "transformers-fastconformer[ray]"'


def import_arrow() -> ModuleType:
    """
    `pyarrow`, in whose tables Ray Data keeps rows.

    Raises:
        ImportError: the extra `ray` is not installed; the message holds the command.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"Tables of transcripts need pyarrow: {INSTALL_COMMAND}") from error
    return pyarrow


def import_ray() -> ModuleType:
    """
    `ray`.

    Raises:
        ImportError: the extra `ray` is not installed; the message holds the command.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"Work on several machines needs ray: {INSTALL_COMMAND}") from error
    return ray
