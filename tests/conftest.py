"""Shared fixtures: where the real speech lies and the models that every test file may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Processes side by side share the cores: one thread each, also in the processes that tests start. Before torch is
# imported, which reads it once.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asks the network; those of the Hub have a server of their own. Before huggingface_hub is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

# Kernels in Triton run in its interpreter where there is no GPU. Before Triton is imported, which reads it then.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Where Transformers' loggers, and with them ours, pass on what they are told; `caplog` listens there.
transformers.utils.logging.enable_propagation()

pytest_plugins = ["hub_fixtures"]  # of `support`; more than one folder has tests that talk to a Hub


@pytest.fixture(scope="session", autouse=True)
def conversion_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of converted `.nemo` files for the run, in place of the user's; processes that tests start share it."""
    folder = tmp_path_factory.mktemp("conversions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFORMERS_FASTCONFORMER_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    """Folder of real speech (`FASTCONFORMER_SPEECH_DIR`, default `../shared/speech`); skips where it is absent."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("FASTCONFORMER_SPEECH_DIR", root / ".." / "shared" / "speech")).resolve()
    if not (folder / "manifest.jsonl").is_file():
        pytest.skip(f"no speech at {folder}; set FASTCONFORMER_SPEECH_DIR")
    return folder


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A tiny model of a kind (see `models.py`) and the folder that `save_pretrained` wrote it to; built once."""
    from models import build_model

    built: dict[str, tuple[Any, Path]] = {}

    def get(kind: str) -> tuple[Any, Path]:
        if kind not in built:
            folder = tmp_path_factory.mktemp(kind)
            model = build_model(kind)
            model.save_pretrained(folder)
            built[kind] = (model, folder)
        return built[kind]

    return get
