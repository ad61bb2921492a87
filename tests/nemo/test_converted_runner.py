"""Our side of a verification: the heads of a converted folder, and folders that are of something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transformers_fastconformer.nemo.converted_runner import ConvertedRunner


def test_a_hybrid_has_both_heads(converted_folder: Path) -> None:
    runner = ConvertedRunner(converted_folder)
    assert set(runner.heads) == {"tdt", "ctc"}
    assert runner.processor is not None
    assert runner.prompt_ids is None


def test_a_folder_of_another_model_is_refused(converted_folder: Path, tmp_path: Path) -> None:
    for path in converted_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ValueError, match=r"model_type='bert' is not supported; expected one of \['fastconformer'"):
        ConvertedRunner(tmp_path)
