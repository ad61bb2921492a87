"""Folders in our format that are damaged: an error that names the file, at every door, and nothing made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from transformers_fastconformer import (
    FastConformerConfig,
    FastConformerForTDT,
    FastConformerModel,
    FastConformerProcessor,
)
from transformers_fastconformer.checkpoints.own_folder import check_own_folder, is_own_folder
from transformers_fastconformer.inference.loading import load_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration checkpoint as a folder."""
    folder = tmp_path_factory.mktemp("whole")
    model, processor = load_model("demo", device="cpu")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "folder"))


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def drop_weight(path: Path, name: str) -> None:
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})


def add_weight(path: Path, name: str) -> None:
    save_file({**load_file(path), name: torch.zeros(1)}, path, {"format": "pt"})


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights cut off": (lambda f: cut(f / "model.safetensors"), r"model\.safetensors"),
    "weights of nothing": (lambda f: (f / "model.safetensors").write_bytes(b""), r"model\.safetensors"),
    "a weight is missing": (
        lambda f: drop_weight(f / "model.safetensors", "decoder.lstm.weight_hh_l0"),
        "lacks 1 weights of .*, such as 'decoder.lstm.weight_hh_l0'; expected all",
    ),
    "a weight of the encoder is missing": (
        lambda f: drop_weight(f / "model.safetensors", "encoder.layers.0.norm_out.weight"),
        "lacks 1 weights of .*, such as 'encoder.layers.0.norm_out.weight'",
    ),
    "a weight too many": (
        lambda f: add_weight(f / "model.safetensors", "encoder.layers.99.norm_out.weight"),
        "holds 1 weights of .*, such as 'encoder.layers.99.norm_out.weight'; expected only",
    ),
    "fewer layers": (lambda f: edit(f / "config.json", num_hidden_layers=1), r"holds \d+ weights"),
    "other widths": (
        lambda f: edit(f / "config.json", joint_hidden_size=8),
        r"joint\..* is \(.*\); expected \(.*8.*\), as the configuration says",
    ),
    "a model of any size": (
        lambda f: edit(f / "config.json", num_hidden_layers=500, intermediate_size=8192),
        "config.json declares at least .* weights of the encoder .num_hidden_layers=500",
    ),
    "more than any model": (lambda f: edit(f / "config.json", num_hidden_layers=10**9), "at most 512"),
    "width": (lambda f: edit(f / "config.json", hidden_size="x"), "hidden_size"),
    "widths": (lambda f: edit(f / "config.json", hidden_size=[5]), "hidden_size"),
    "labels": (lambda f: edit(f / "config.json", id2label=5), "cannot be read"),
    "dtype": (lambda f: edit(f / "config.json", dtype="x"), "cannot be read"),
    "broken configuration": (lambda f: cut(f / "config.json"), r"config\.json"),
    "model type": (lambda f: edit(f / "config.json", model_type={}), "expected"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 10**5), r"config\.json"),
    "broken generation": (
        lambda f: (f / "generation_config.json").write_text("{"),
        r"generation_config\.json cannot be read",
    ),
    "broken processor": (lambda f: cut(f / "processor_config.json"), r"processor_config\.json"),
    "broken tokenizer": (lambda f: cut(f / "tokenizer.json"), r"tokenizer\.json"),
    "a key of a token": (
        lambda f: edit(f / "tokenizer.json", added_tokens=[{"id": 0, "content": "x", "lstrip_": True}]),
        r"tokenizer\.json: added_tokens: key 'lstrip_' is unknown; expected \('id', 'content'",
    ),
    "broken options": (lambda f: cut(f / "tokenizer_config.json"), r"tokenizer_config\.json"),
    "separators": (lambda f: edit(f / "processor_config.json", segment_separators=5), "segment_separators=5"),
    "separator": (lambda f: edit(f / "processor_config.json", word_separator=5), "word_separator=5"),
    "gap": (lambda f: edit(f / "processor_config.json", segment_gap_frames="x"), "segment_gap_frames='x'"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_folders_are_refused_by_name(case: str, folder: Path) -> None:
    damage, message = DAMAGES[case]
    damage(folder)
    with pytest.raises((ValueError, OSError), match=message) as raised:
        load_model(folder, device="cpu")
    assert str(folder) in str(raised.value)
    assert len(str(raised.value)) < 3000


def test_pickles_that_run_code_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": print}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"folder cannot be read: .*weights_only|Weights only"):
        FastConformerForTDT.from_pretrained(folder)


@pytest.mark.parametrize("loader", [AutoConfig, AutoModel, FastConformerConfig, FastConformerModel, AutoProcessor])
def test_every_door_names_the_folder(loader: Any, folder: Path) -> None:
    name = "processor_config.json" if loader is AutoProcessor else "config.json"
    edit(folder / name, hidden_size="x", feature_extractor={"n_fft": "x"})
    with pytest.raises(ValueError, match="expected") as raised:
        loader.from_pretrained(folder)
    assert str(folder) in str(raised.value)


def test_a_head_that_was_not_there_may_be_fresh(folder: Path, tmp_path: Path) -> None:
    FastConformerModel.from_pretrained(folder).save_pretrained(tmp_path / "encoder")
    edit(tmp_path / "encoder" / "config.json", model_type="fastconformer")
    model = FastConformerForTDT.from_pretrained(tmp_path / "encoder", vocab_size=5)
    assert model.joint.head.weight.isfinite().all()


def test_whole_folders_and_other_names_are_passed_over(folder: Path, tmp_path: Path) -> None:
    for name in (str(folder), str(tmp_path), "org/repository", str(folder / "config.json")):
        assert check_own_folder(name, FastConformerForTDT, {}) is None
    assert is_own_folder(folder)
    assert not is_own_folder(tmp_path)
    edit(folder / "config.json", model_type="bert")
    (folder / "generation_config.json").write_text("{")
    assert check_own_folder(str(folder), FastConformerForTDT, {}) is None  # not ours to judge


def test_names_without_a_checkpoint_stay_errors_of_transformers(tmp_path: Path) -> None:
    for loader in (FastConformerForTDT, FastConformerProcessor, AutoFeatureExtractor):
        with pytest.raises(OSError, match=r"preprocessor_config|model\.safetensors|tokenizer|config"):
            loader.from_pretrained(tmp_path)
