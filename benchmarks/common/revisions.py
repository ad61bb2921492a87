"""Sources of another revision of this package, to measure it in turns with the one that is checked out."""

from __future__ import annotations

import subprocess
from pathlib import Path

from common.folders import ROOT


def write_sources(revision: str, folder: Path) -> Path:
    """Write the package of a revision, as git knows it, into a folder; returns what to put on the path of Python."""
    archive = ["git", "archive", revision, "src"]
    content = subprocess.run(archive, cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=content, check=True)
    return folder / "src"
