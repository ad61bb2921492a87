"""A graph that gives something else than the model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import build_model

from transformers_fastconformer.export import graphs
from transformers_fastconformer.export.stage_checks import check_stages

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_prediction_and_joint_apart(tmp_path: Path) -> None:
    model: Any = build_model("tdt").eval()
    parts = {"decoder.onnx": graphs.prediction_part(model), "joiner.onnx": graphs.joint_part(model)}
    for name, part in parts.items():
        graphs.write_graph(part, tmp_path / name, model.config)
    assert len(check_stages(model, parts, tmp_path)) == 5


def test_other_weights_are_found(tmp_path: Path) -> None:
    model: Any = build_model("tdt").eval()
    part = graphs.decoder_joint_part(model)
    graphs.write_graph(part, tmp_path / "step.onnx", model.config)
    assert set(check_stages(model, {"step.onnx": part}, tmp_path)) == {
        f"step.onnx {name}" for name in part.output_names
    }
    with torch.no_grad():
        model.joint.head.bias += 0.01
    with pytest.raises(RuntimeError, match=r"step\.onnx outputs: the graph differs from the model by"):
        check_stages(model, {"step.onnx": part}, tmp_path)
