"""Checkpoints by name to a model and its processor."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from transformers_fastconformer import load_model, transcribe
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.interop.writing import export_to_transformers

TEXT = "three one four one five nine"


def test_a_repository_with_both_forms_of_a_checkpoint(tmp_path: Path) -> None:
    """As `nvidia/parakeet-tdt-0.6b-v3` is: a `.nemo`, and the files of Transformers' own class next to it."""
    folder = tmp_path / "both"
    export_to_transformers(CHECKPOINT_PATH, folder, head="transducer")
    shutil.copy(CHECKPOINT_PATH, folder / "digits.nemo")
    model, processor = load_model(folder)
    assert type(model).__name__ == "FastConformerForTDT"
    assert transcribe(CLIP_PATHS[0], (model, processor)).text == TEXT
    assert transcribe(CLIP_PATHS[0], model=folder).text == TEXT


def test_a_head_that_is_none_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="head='both' is not supported; expected one of"):
        load_model("nothing/of-that-name", head="both")
