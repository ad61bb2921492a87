"""What the tests of exports share: one graph of a step of decoding, as the exporter takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from models import build_model

from transformers_fastconformer.export import graphs


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
