"""The model of times that a multitask checkpoint carries: it goes where the checkpoint goes."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import WRITE_TOKEN, HubServer
from multitask_archives import write_timed_canary
from transformers import AutoModelForSpeechSeq2Seq, pipeline

from transformers_fastconformer import FastConformerForMultitask, convert_nemo_checkpoint, load_model
from transformers_fastconformer.checkpoints.int8_form import write_int8_checkpoint
from transformers_fastconformer.modeling.multitask_times import TIMES_FOLDER
from transformers_fastconformer.modeling.quantization import is_int8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint with a model of times."""
    root = tmp_path_factory.mktemp("canary")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_timed_canary(root / "a.nemo")
    return convert_nemo_checkpoint(root / "a.nemo", root / "converted").output_dir


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / TIMES_FOLDER).iterdir()}


def has_weights_of(model: Any, folder: Path) -> bool:
    expected = FastConformerForMultitask.from_pretrained(folder).times_model.load(model).state_dict()
    found = model.times_model.load(model).state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    "load", [FastConformerForMultitask.from_pretrained, AutoModelForSpeechSeq2Seq.from_pretrained]
)
def test_saved_models_carry_it(folder: Path, tmp_path: Path, load: Any) -> None:
    model = load(folder)
    model.save_pretrained(tmp_path / "saved")
    assert content(tmp_path / "saved") == content(folder)
    shutil.copytree(tmp_path / "saved", tmp_path / "root" / "deep")
    for again in (load(tmp_path / "saved"), load(tmp_path / "root", subfolder="deep")):
        assert has_weights_of(again, folder)
    # Into its own folder, and again elsewhere without it.
    again.save_pretrained(tmp_path / "root" / "deep")
    assert content(tmp_path / "root" / "deep") == content(folder)
    again.times_model = None
    again.save_pretrained(tmp_path / "root" / "deep")
    assert load(tmp_path / "root" / "deep").times_model is None


def test_an_archive_and_the_pipeline_bring_it(folder: Path, tmp_path: Path) -> None:
    archive = folder.parent / "a.nemo"
    assert has_weights_of(AutoModelForSpeechSeq2Seq.from_pretrained(archive), folder)
    assert has_weights_of(load_model(folder, device="cpu")[0], folder)
    recognize = pipeline("automatic-speech-recognition", model=str(archive), device="cpu")
    recognize.save_pretrained(tmp_path / "saved")
    model, processor = load_model(tmp_path / "saved", device="cpu")
    assert has_weights_of(model, folder)
    assert type(processor) is type(recognize.processor)


@pytest.mark.parametrize("subfolder", ["", "deep"])
def test_repositories_carry_it(client: HubServer, folder: Path, subfolder: str) -> None:
    prefix = f"{subfolder}/" if subfolder else ""
    files = {f"{prefix}{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    client.add_repository("org/canary", files)
    options = {"subfolder": subfolder} if subfolder else {}
    model = AutoModelForSpeechSeq2Seq.from_pretrained("org/canary", **options)
    assert not any(TIMES_FOLDER in request.path for request in client.asked("GET", "/resolve/"))
    assert has_weights_of(model, folder)
    for push in (
        lambda name: model.push_to_hub(name, token=WRITE_TOKEN),
        lambda name: model.save_pretrained(folder.parent / f"pushed{prefix}", push_to_hub=True, token=WRITE_TOKEN),
    ):
        push("writer/canary")
    for repository in (client.repositories["writer/canary"], client.repositories[f"writer/pushed{prefix[:-1]}"]):
        pushed = repository.commits[repository.branches["main"]].files
        assert {f"{TIMES_FOLDER}/{name}" for name in content(folder)} <= pushed.keys()
    assert has_weights_of(AutoModelForSpeechSeq2Seq.from_pretrained("writer/canary"), folder)


def test_copies_read_it_anew(folder: Path) -> None:
    model = FastConformerForMultitask.from_pretrained(folder)
    loaded = model.times_model.load(model)
    assert model.times_model.load(model) is loaded
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.times_model.load(again) is not loaded
        assert has_weights_of(again, folder)


def test_it_has_the_precision_of_its_model(folder: Path, tmp_path: Path) -> None:
    for model, dtype in (
        (FastConformerForMultitask.from_pretrained(folder, dtype=torch.bfloat16), torch.bfloat16),
        (load_model(folder, device="cpu", dtype="float32")[0], torch.float32),
    ):
        assert model.times_model.load(model).dtype == dtype
        model.to(torch.float64)
        assert model.times_model.load(model).dtype == torch.float64
    write_int8_checkpoint(folder, tmp_path / "int8")
    stored = load_model(tmp_path / "int8", device="cpu")[0]
    assert is_int8(stored.times_model.load(stored))
    floating = load_model(tmp_path / "int8", device="cpu", dtype="float32")[0]
    assert not is_int8(floating.times_model.load(floating))
    rounded = load_model(folder.parent / "a.nemo", device="cpu", dtype="int8")[0]
    assert is_int8(rounded.times_model.load(rounded))


def test_a_folder_without_it_says_so(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / TIMES_FOLDER)
    with pytest.raises(ValueError, match=rf"{TIMES_FOLDER} does not exist; expected the model of times"):
        AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "cut")
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config | {"has_timestamps_model": False}))
    assert AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "cut").times_model is None
