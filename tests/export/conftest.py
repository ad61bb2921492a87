"""Parts that the tests of exports share, as loading and exporting take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from models import build_model

from transformers_fastconformer import load_model
from transformers_fastconformer.export import graphs
from transformers_fastconformer.export import onnx as door


class ExportedStep(NamedTuple):
    """A graph of a step of decoding, its model and its folder."""

    model: Any
    part: graphs.GraphPart
    folder: Path


@pytest.fixture(scope="session")
def exported_step(tmp_path_factory: pytest.TempPathFactory) -> ExportedStep:
    """`step.onnx` of a tiny RNN-T model with two layers. Its weights are to be left as they are."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    model: Any = build_model("rnnt_two_layers").eval()
    folder = tmp_path_factory.mktemp("exported")
    part = graphs.decoder_joint_part(model)
    graphs.write_graph(part, folder / "step.onnx", model.config)
    return ExportedStep(model, part, folder)


@pytest.fixture(scope="session")
def demonstration() -> tuple[Any, Any]:
    """The demonstration checkpoint, to be left as it is."""
    return load_model("demo", device="cpu", dtype="float32")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs without the exporter, which takes seconds."""
    monkeypatch.setattr(door, "write_graph", lambda part, path, *others: path.write_bytes(b"graph"))
    monkeypatch.setattr(door, "check_stages", lambda model, parts, folder: {"encoder-model.onnx outputs": 1e-6})
