"""Checkpoints by name to a model and its processor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer import FastConformerModel, load_model, transcribe
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


def test_a_checkpoint_without_its_head_is_refused(tmp_path: Path) -> None:
    """A head with fresh weights would give a transcript of nothing."""
    model, processor = load_model("demo")
    FastConformerModel(model.config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks weights of FastConformerForTDT, such as '.*'; expected a check"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": None}, "model=None is not supported; expected the name of a checkpoint"),
        ({"source": "demo", "dtype": "float8"}, "dtype='float8' is not supported; expected one of"),
        ({"source": "demo", "device": "nowhere"}, "device='nowhere' is not available"),
        ({"source": "demo", "device": "meta"}, "device='meta' is not available"),
    ],
)
def test_what_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(**options)


def test_a_model_that_cannot_be_had_says_what_to_do() -> None:
    """The tests are offline, as someone is who tries the package on a train."""
    with pytest.raises(OSError, match=r"nobody/nothing is not on this machine.*for a trial offline the model 'demo'"):
        load_model("nobody/nothing")
