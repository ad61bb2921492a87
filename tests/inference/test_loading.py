"""Checkpoints by name to a model and its processor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from archives import rewrite_archive, round_weights
from transformers import AutoModel

from transformers_fastconformer import AutoModelForTDT, FastConformerModel, load_model, transcribe
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.interop.writing import export_to_transformers
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

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


def test_weights_of_half_precision_are_computed_in_float32(tmp_path: Path) -> None:
    """As in NeMo, through every door; in 16 bits where they are asked for."""
    archive = rewrite_archive(
        CHECKPOINT_PATH, tmp_path / "half.nemo", lambda config: None, change_tensors=round_weights(torch.float16)
    )
    model, processor = load_model(archive, device="cpu")
    assert transcribe(CLIP_PATHS[0], model=(model, processor)).text == TEXT
    for loaded in (
        model,
        AutoModel.from_pretrained(str(archive)),
        AutoModelForTDT.from_pretrained(str(archive), dtype="auto"),
        transformers.pipeline("automatic-speech-recognition", model=str(archive), device="cpu").model,
    ):
        assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    assert AutoModel.from_pretrained(str(archive), dtype=torch.float16).dtype == torch.float16
    assert load_model(archive, device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16
    asked_for = convert_nemo_checkpoint(archive, tmp_path / "asked-for", dtype="float16")
    assert AutoModel.from_pretrained(asked_for.output_dir).dtype == torch.float16


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
    ],
)
def test_what_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(**options)


def test_a_model_that_cannot_be_had_says_what_to_do() -> None:
    """The tests are offline, as someone is who tries the package on a train."""
    with pytest.raises(OSError, match=r"nobody/nothing is not on this machine.*for a trial offline the model 'demo'"):
        load_model("nobody/nothing")
