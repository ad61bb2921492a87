"""
The configuration file of the toolkit that a checkpoint was converted from.

Nothing here reads it, but an export back to that toolkit begins with it, so a model takes it along: from the folder
that it is loaded from to the folders that it is saved to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..checkpoint_sources import HUB_OPTIONS, ORIGINAL_CONFIG_FILE, Name

MAX_BYTES = 2**24  # a thousand times that of a usual one


@dataclass(frozen=True)
class OriginalConfig:
    """
    The file, or where on the Hub it is.

    Args:
        content: Bytes of it; None: not at hand.
        hub_id: Repository that it may be in, which is asked when it is wanted: most models are never saved.
        hub_options: Options of that repository.
    """

    content: bytes | None = None
    hub_id: str | None = None
    hub_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, name: Name, options: Mapping[str, Any]) -> OriginalConfig:
        """
        Find the file next to a checkpoint.

        Args:
            name: Folder or Hub id.
            options: Arguments of `from_pretrained`.
        """
        chosen = {key: value for key, value in options.items() if key in HUB_OPTIONS and value is not None}
        path = Path(name)
        if path.is_dir():
            return cls(_read(path / chosen.get("subfolder", "") / ORIGINAL_CONFIG_FILE))
        return cls(None, os.fspath(name), chosen)

    def read(self) -> bytes | None:
        """Bytes of the file; None where there is no such file, or it cannot be reached."""
        if self.content is not None or self.hub_id is None:
            return self.content
        found = cached_file(
            self.hub_id,
            ORIGINAL_CONFIG_FILE,
            **self.hub_options,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if found is None else _read(Path(found))

    def write(self, folder: Name) -> None:
        """Write the file into a folder, which is made."""
        content = self.read()
        if content is not None:
            path = Path(folder)
            path.mkdir(parents=True, exist_ok=True)
            (path / ORIGINAL_CONFIG_FILE).write_bytes(content)


def _read(path: Path) -> bytes | None:
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    return path.read_bytes()
