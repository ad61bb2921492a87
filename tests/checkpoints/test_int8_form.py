"""Folders in 8 bits, written from folders of floats: what `save_pretrained` would write, and all else kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import build_model
from safetensors.torch import load_file

from transformers_fastconformer import FastConformerForTDT, FastConformerInt8Config
from transformers_fastconformer.checkpoints import int8_form as int8_form_module
from transformers_fastconformer.checkpoints.int8_form import (
    cached_int8_folder,
    is_int8_checkpoint,
    write_int8_checkpoint,
)
from transformers_fastconformer.checkpoints.store import CACHE_VARIABLE


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    folder = tmp_path / "floats"
    build_model("tdt").save_pretrained(folder)
    (folder / "README.md").write_text("# A model\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_files_are_those_of_a_model_rounded_while_loading(floats: Path, dtype: torch.dtype) -> None:
    build_model("tdt").to(dtype).save_pretrained(floats)
    written, saved = floats.with_name("written"), floats.with_name("saved")
    write_int8_checkpoint(floats, written)
    model = FastConformerForTDT.from_pretrained(floats, quantization_config=FastConformerInt8Config(), dtype=dtype)
    model.save_pretrained(saved)
    found, expected = load_file(written / "model.safetensors"), load_file(saved / "model.safetensors")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (written, saved)]
    assert configs[0] == configs[1]


def test_all_else_is_kept_and_the_card_says_what_it_is(floats: Path) -> None:
    written = floats.with_name("written")
    write_int8_checkpoint(floats, written, max_shard_size="20KB")
    assert is_int8_checkpoint(written)
    assert not is_int8_checkpoint(floats)
    names = {path.name for path in written.iterdir()}
    assert {"README.md", "tokenizer.json", "config.json", "model.safetensors.index.json"} <= names
    assert "model.safetensors" not in names
    card = (written / "README.md").read_text()
    assert card.startswith("# A model\n")
    assert "stored in 8 bits" in card


def test_float16_becomes_float32(floats: Path) -> None:
    build_model("tdt").half().save_pretrained(floats)
    written = floats.with_name("written")
    write_int8_checkpoint(floats, written)
    dtypes = {tensor.dtype for tensor in load_file(written / "model.safetensors").values()}
    assert dtypes == {torch.int8, torch.float32, torch.int64}
    assert json.loads((written / "config.json").read_text())["dtype"] == "float32"


def test_what_cannot_be_rounded_is_refused(floats: Path) -> None:
    written = floats.with_name("written")
    write_int8_checkpoint(floats, written)
    with pytest.raises(ValueError, match="the weights are quantized already"):
        write_int8_checkpoint(written, floats.with_name("twice"))
    with pytest.raises(ValueError, match="not empty"):
        write_int8_checkpoint(floats, written)
    (floats / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}', encoding="utf-8")
    with pytest.raises(ValueError, match="a BertModel of type 'bert' cannot be stored in 8 bits"):
        write_int8_checkpoint(floats, floats.with_name("other"))
    assert not floats.with_name("other").exists()


def test_the_cache_makes_it_once(floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    made = []
    write = write_int8_checkpoint

    def count(source: Path, output_dir: Path, **options: Any) -> None:
        made.append(source)
        write(source, output_dir, **options)

    monkeypatch.setattr(int8_form_module, "write_int8_checkpoint", count)
    folder = cached_int8_folder(floats, "a/name")
    assert is_int8_checkpoint(folder)
    assert cached_int8_folder(floats, "a/name") == folder
    assert len(made) == 1
    assert cached_int8_folder(floats.rename(floats.with_name("others")), "a/name") != folder
