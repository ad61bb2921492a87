"""Checkpoints of Transformers' own classes behind `from_pretrained` of ours, converted once into the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from models import build_model
from their_models import build_their_model
from transformers import AutoModel

from transformers_fastconformer import (
    FastConformerConfig,
    FastConformerEncoder,
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerModel,
    FastConformerTDTConfig,
)
from transformers_fastconformer.checkpoint_sources import register_source, registered_sources, unregister_source
from transformers_fastconformer.checkpoints.hub import file_digest
from transformers_fastconformer.interop.sources import resolve_transformers_checkpoint
from transformers_fastconformer.interop.writing import export_to_transformers

NAME = "a test's transformers"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache for this test alone, with the source registered."""
    monkeypatch.setenv("TRANSFORMERS_FASTCONFORMER_CACHE", str(tmp_path / "cache"))
    if resolve_transformers_checkpoint not in registered_sources().values():
        register_source(NAME, resolve_transformers_checkpoint)
    yield tmp_path / "cache"
    unregister_source(NAME)


@pytest.fixture
def their_folder(tmp_path: Path) -> Path:
    build_their_model("ParakeetForTDT").save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def conversions(cache: Path) -> list[Path]:
    return [path.parent for path in cache.glob("v*/*/config.json")]


def test_every_class_of_ours_loads_their_folder(cache: Path, their_folder: Path) -> None:
    model = FastConformerForTDT.from_pretrained(their_folder)
    assert model.config.name_or_path == str(their_folder)
    (entry,) = conversions(cache)
    for encoder_class in (FastConformerModel, FastConformerEncoder):
        encoder = encoder_class.from_pretrained(their_folder)
        weight = encoder.state_dict()[next(name for name in encoder.state_dict() if "q_proj" in name)]
        assert torch.equal(weight, model.encoder.layers[0].self_attn.q_proj.weight)
    assert FastConformerTDTConfig.from_pretrained(their_folder).to_diff_dict() == model.config.to_diff_dict()
    assert FastConformerConfig.from_pretrained(their_folder).hidden_size == 16
    assert conversions(cache) == [entry]
    bfloat16 = FastConformerForTDT.from_pretrained(their_folder, dtype="bfloat16")
    assert bfloat16.dtype == torch.bfloat16


def test_other_files_are_another_entry(cache: Path, their_folder: Path) -> None:
    FastConformerForTDT.from_pretrained(their_folder)
    config = their_folder / "config.json"
    config.write_text(config.read_text().replace('"max_symbols_per_step": 3', '"max_symbols_per_step": 4'))
    assert FastConformerForTDT.from_pretrained(their_folder).config.max_symbols_per_step == 4
    assert len(conversions(cache)) == 2


def test_a_subfolder_is_found(cache: Path, tmp_path: Path) -> None:
    export_to_transformers(build_model("ctc"), tmp_path / "repository" / "deep")
    assert resolve_transformers_checkpoint(tmp_path / "repository") is None
    model = FastConformerForCTC.from_pretrained(tmp_path / "repository", subfolder="deep")
    assert isinstance(model, FastConformerForCTC)


@pytest.mark.parametrize("model_class", [FastConformerForCTC, FastConformerForRNNT])
def test_another_head_is_refused(cache: Path, their_folder: Path, model_class: type) -> None:
    with pytest.raises(
        ValueError, match=f"ParakeetForTDT, which {model_class.__name__} does not load; expected FastC"
    ):
        model_class.from_pretrained(their_folder)  # type: ignore[attr-defined]
    assert conversions(cache) == []


def test_what_is_not_theirs_is_left_alone(cache: Path, saved_model, tmp_path: Path) -> None:
    _, folder = saved_model("ctc")
    assert resolve_transformers_checkpoint(folder) is None
    assert resolve_transformers_checkpoint(tmp_path / "nothing") is None
    assert resolve_transformers_checkpoint("archive.nemo") is None
    (tmp_path / "config.json").write_text("{broken")
    assert resolve_transformers_checkpoint(tmp_path) is None
    assert conversions(cache) == []


def test_auto_classes_stay_theirs(cache: Path, their_folder: Path) -> None:
    assert type(AutoModel.from_pretrained(their_folder)).__name__ == "ParakeetForTDT"
    assert conversions(cache) == []


@pytest.mark.parametrize("max_shard_size", ["5GB", "10KB"])
def test_a_repository_is_downloaded_once_and_found_offline(
    client: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_shard_size: str
) -> None:
    theirs = build_their_model("ParakeetForTDT")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=max_shard_size)
    client.add_repository("org/parakeet", tmp_path / "theirs")
    monkeypatch.setenv("TRANSFORMERS_FASTCONFORMER_CACHE", str(cache))  # the client begins without such settings
    model = FastConformerForTDT.from_pretrained("org/parakeet")
    assert model.name_or_path == "org/parakeet"
    assert torch.equal(model.joint.head.weight, theirs.joint.head.weight)

    client.forget_requests()
    FastConformerModel.from_pretrained("org/parakeet")
    methods = [request.method for request in client.requests]
    if huggingface_hub.__version__ < "2":  # asks again for files that the repository lacks
        assert set(methods) == {"HEAD"}
    else:
        assert methods == ["HEAD"]  # of config.json
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client.forget_requests()
    FastConformerForTDT.from_pretrained("org/parakeet")
    assert client.requests == []
    assert len(conversions(cache)) == 1


def test_a_repository_in_our_form_or_of_nobody_is_loaded_in_the_usual_way(
    client: Any, cache: Path, saved_model: Any, tmp_path: Path
) -> None:
    _, folder = saved_model("ctc")
    client.add_repository("org/ours", folder)
    assert isinstance(FastConformerForCTC.from_pretrained("org/ours"), FastConformerForCTC)
    with pytest.raises(OSError, match="org/nothing"):
        FastConformerForCTC.from_pretrained("org/nothing")
    assert not cache.exists()


def test_downloads_have_the_digest_of_the_hub(cache: Path, their_folder: Path, tmp_path: Path) -> None:
    """A file in the cache of the Hub is a link to one that is named by its content."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    weights = their_folder / "model.safetensors"
    blob = blobs / file_digest(weights)
    weights.rename(blob)
    weights.symlink_to(blob)
    FastConformerForTDT.from_pretrained(their_folder)
    content = bytearray(blob.read_bytes())
    content[-5] ^= 1
    weights.unlink()
    other = blobs / ("0" * 64)
    other.write_bytes(content)
    weights.symlink_to(other)
    with pytest.raises(
        ValueError, match=r"the download of model\.safetensors is damaged: its SHA-256.*force_download"
    ):
        FastConformerForTDT.from_pretrained(their_folder)
    assert len(conversions(cache)) == 1
