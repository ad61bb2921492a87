"""The configuration that a converted checkpoint began with goes along with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import build_model

from transformers_fastconformer import FastConformerForTDT, FastConformerProcessor, ParakeetTDTForCTC, export_nemo
from transformers_fastconformer.checkpoint_sources import ORIGINAL_CONFIG_FILE
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.modeling import original_config
from transformers_fastconformer.modeling.original_config import MAX_BYTES, OriginalConfig
from transformers_fastconformer.nemo.archive import CONFIG_MEMBER, NemoArchive


def test_it_is_kept_by_training_and_saving_and_the_export_begins_with_it(tmp_path: Path) -> None:
    with NemoArchive(CHECKPOINT_PATH) as archive:
        expected = archive.read_member(CONFIG_MEMBER)
    for model_class in (FastConformerForTDT, ParakeetTDTForCTC):
        first, second = tmp_path / "first" / model_class.__name__, tmp_path / "second" / model_class.__name__
        model = model_class.from_pretrained(CHECKPOINT_PATH)
        with torch.no_grad():
            model.ctc_head.bias += 1.0
        model.save_pretrained(first)
        model_class.from_pretrained(first).save_pretrained(second)
        assert (second / ORIGINAL_CONFIG_FILE).read_bytes() == expected
    processor = FastConformerProcessor.from_pretrained(CHECKPOINT_PATH)
    processor.save_pretrained(second)
    assert export_nemo(second, tmp_path / "of-folder.nemo").is_config_kept
    assert export_nemo(model, tmp_path / "of-model.nemo", processor=processor).is_config_kept


def test_a_model_that_was_not_converted_has_none(tmp_path: Path) -> None:
    build_model("ctc").save_pretrained(tmp_path)
    assert not (tmp_path / ORIGINAL_CONFIG_FILE).exists()


def test_a_repository_is_asked_when_the_file_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    (tmp_path / "cached.yaml").write_bytes(b"encoder: {}\n")

    def find(name: str, file: str, **options: Any) -> str | None:
        asked.append((name, file, options["revision"]))
        return str(tmp_path / "cached.yaml") if name == "owner/model" else None

    monkeypatch.setattr(original_config, "cached_file", find)
    found = OriginalConfig.find("owner/model", {"revision": "v1", "dtype": "auto"})
    assert not asked
    found.write(tmp_path / "folder")
    assert (tmp_path / "folder" / ORIGINAL_CONFIG_FILE).read_bytes() == b"encoder: {}\n"
    assert asked == [("owner/model", ORIGINAL_CONFIG_FILE, "v1")]
    OriginalConfig.find("owner/other", {"revision": "v1"}).write(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_far_too_large_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / ORIGINAL_CONFIG_FILE).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert OriginalConfig.find(tmp_path, {}).read() is None


def test_an_upload_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers uploads what changes while it saves, and the file is written before."""
    model = FastConformerForTDT.from_pretrained(CHECKPOINT_PATH)
    times = []
    monkeypatch.setattr(
        "transformers.utils.hub.PushToHubMixin._upload_modified_files",
        lambda self, folder, *args, **kwargs: times.append((Path(folder) / ORIGINAL_CONFIG_FILE).stat().st_mtime_ns),
    )
    model.save_pretrained(tmp_path)
    before = (tmp_path / ORIGINAL_CONFIG_FILE).stat().st_mtime_ns
    model._upload_modified_files(tmp_path, "owner/model", {})
    assert times[0] > before
