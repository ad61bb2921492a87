"""A graph that gives something else than the model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from models import build_model

from transformers_fastconformer.export import graphs
from transformers_fastconformer.export.stage_checks import TOLERANCE, check_stages

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.slow
def test_prediction_and_joint_apart(tmp_path: Path) -> None:
    model: Any = build_model("tdt").eval()
    parts = {"decoder.onnx": graphs.prediction_part(model), "joiner.onnx": graphs.joint_part(model)}
    for name, part in parts.items():
        graphs.write_graph(part, tmp_path / name, model.config)
    assert len(check_stages(model, parts, tmp_path)) == 5


def test_other_weights_are_found(exported_step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, part, folder = exported_step
    differences = check_stages(model, {"step.onnx": part}, folder)
    assert set(differences) == {f"step.onnx {name}" for name in part.output_names}
    assert max(differences.values()) <= TOLERANCE
    bias = model.joint.head.bias
    monkeypatch.setattr(bias, "data", bias.data + 0.01)
    with pytest.raises(RuntimeError, match=r"step\.onnx outputs: the graph differs from the model by"):
        check_stages(model, {"step.onnx": part}, folder)
