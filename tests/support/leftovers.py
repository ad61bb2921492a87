"""Temporary folders as processes leave them that were killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers_fastconformer.temporary_files import PREFIX, machine_name


def killed(living: Path, machine: str | None = None) -> Path:
    """A copy of a temporary folder, whose lock nobody holds; of another machine if one is named."""
    path = living.with_name(f"{PREFIX}{machine or machine_name()}-{len(list(living.parent.iterdir())):016x}")
    shutil.copytree(living, path)
    (path / "half").write_text("half")
    return path
