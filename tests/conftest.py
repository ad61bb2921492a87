"""Shared fixtures: where the real speech lies and the models that every test file may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    """Folder of real speech (`FASTCONFORMER_SPEECH_DIR`, default `../shared/speech`); skips where it is absent."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("FASTCONFORMER_SPEECH_DIR", root / ".." / "shared" / "speech")).resolve()
    if not (folder / "manifest.jsonl").is_file():
        pytest.skip(f"no speech at {folder}; set FASTCONFORMER_SPEECH_DIR")
    return folder
