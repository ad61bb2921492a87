"""The door: what is refused, and a folder that appears whole or not at all."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from transformers_fastconformer import export_onnx, load_model
from transformers_fastconformer.export import onnx as door

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_folder_and_manifest(demonstration: tuple[Any, Any], quick: None, tmp_path: Path) -> None:
    result = export_onnx(demonstration, tmp_path / "out", source="demo")
    names = {"encoder-model.onnx", "decoder_joint-model.onnx", "config.json", "vocab.txt", "export.json"}
    assert set(result.files) == names == {path.name for path in (tmp_path / "out").iterdir()}
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert manifest["source"] == "demo"
    assert manifest["target"] == "onnx-asr"
    assert manifest["largest_relative_differences"] == result.differences
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings == {
        "model_type": "nemo-conformer-tdt",
        "features_size": 80,
        "subsampling_factor": 8,
        "max_tokens_per_step": 10,
    }
    lines = (tmp_path / "out" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ")[1] for line in lines] == [str(number) for number in range(len(lines))]
    with pytest.raises(ValueError, match="is not empty"):
        export_onnx(demonstration, tmp_path / "out")
    export_onnx(demonstration, tmp_path / "out", overwrite=True)


def test_plain_has_the_processor(quick: None, tmp_path: Path) -> None:
    pair = load_model("demo-streaming", device="cpu", dtype="float32")
    result = export_onnx(pair, tmp_path / "out", target="plain")
    assert {"encoder.onnx", "decoder_joint.onnx", "config.json", "tokenizer.json"} <= set(result.files)


def test_nothing_is_left_of_a_failure(
    demonstration: tuple[Any, Any], quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("the graph differs")

    monkeypatch.setattr(door, "check_stages", fail)
    with pytest.raises(RuntimeError, match="the graph differs"):
        export_onnx(demonstration, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["plain", "onnx-asr", "sherpa-onnx", "sherpa-onnx-streaming"])
def test_models_that_follow_speakers_are_refused(demonstration: tuple[Any, Any], target: str, tmp_path: Path) -> None:
    model, processor = demonstration
    changed = copy.copy(model)
    changed.config = copy.deepcopy(model.config)
    changed.config.has_speaker_kernel = True
    with pytest.raises(ValueError, match="follows_speakers=True is not supported; expected False"):
        export_onnx((changed, processor), tmp_path / "graphs", target=target)
    assert not (tmp_path / "graphs").exists()


def test_what_is_not_a_model_is_refused(demonstration: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target='tflite' is not supported"):
        export_onnx(demonstration, tmp_path / "out", target="tflite")
    with pytest.raises(ValueError, match="model is a str; expected the model and the processor"):
        export_onnx("demo", tmp_path / "out")  # type: ignore[arg-type]
    half = load_model("demo", device="cpu", dtype="bfloat16")
    with pytest.raises(ValueError, match=r"model\.dtype=torch\.bfloat16 is not supported; expected torch\.float32"):
        export_onnx(half, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert half[0].dtype == torch.bfloat16
