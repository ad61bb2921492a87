"""What tests of several benchmarks need."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.encoder_systems import folder_of, write_weights


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder above the weights of the tiny shape, which a benchmark would write in a process of its own."""
    root = tmp_path_factory.mktemp("encoders")
    target = folder_of("tiny", root)
    target.mkdir()
    write_weights("tiny", target)
    return root
