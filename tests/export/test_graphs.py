"""Graphs of tiny models: names, open and fixed dimensions, weights next to a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import build_model

from transformers_fastconformer.export import graphs
from transformers_fastconformer.export.stage_checks import TOLERANCE, check_stages

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def dimensions(value: Any) -> list[str | int]:
    return [entry.dim_param or entry.dim_value for entry in value.type.tensor_type.shape.dim]


def test_decoder_and_joint_of_one_step(exported_step: Any) -> None:
    model, part, folder = exported_step
    written = onnx.load(folder / "step.onnx")
    assert written.ir_version == graphs.IR_VERSION
    assert [entry.name for entry in written.graph.input] == list(part.input_names)
    assert [entry.name for entry in written.graph.output] == list(part.output_names)
    # onnx-asr reads the size of the state off the graph.
    state = [model.config.num_decoder_layers, "batch", model.config.decoder_hidden_size]
    assert dimensions(written.graph.input[3]) == state
    assert dimensions(written.graph.output[0])[-1] == model.config.num_joint_outputs


def test_step_is_the_decoder_of_the_model() -> None:
    """The LSTM written out cell by cell gives what torch's gives over several tokens."""
    model: Any = build_model("rnnt_two_layers").eval()
    step = graphs.LSTMStep(model.decoder)
    tokens = torch.tensor([[1, 2, 3], [4, 0, model.config.blank_token_id]])
    expected, (expected_hidden, expected_cell) = model.decoder(tokens)
    hidden = cell = torch.zeros(2, 2, model.config.decoder_hidden_size)
    for place in range(3):
        found, hidden, cell = step(tokens[:, place], hidden, cell)
        torch.testing.assert_close(found, expected[:, place])
    torch.testing.assert_close(hidden, expected_hidden)
    torch.testing.assert_close(cell, expected_cell)


def test_graphs_share_parameters_and_leave_the_model_alone() -> None:
    model: Any = build_model("ctc").eval()
    features = torch.randn(1, 50, model.config.num_mel_bins)
    before = model(features).logits
    part: Any = graphs.ctc_part(model)
    assert part.module.model is not model
    assert part.module.model.ctc_head.weight is model.ctc_head.weight
    torch.testing.assert_close(model(features).logits, before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_context_style": "chunked_limited", "attention_context": [8, 3]},
        {"attention_context": [6, 5]},
        {"position_embedding_type": "rel_pos_local_attn", "attention_context": [8, 8]},
        {"position_embedding_type": "abs_pos"},
        {"conv_norm_type": "layer_norm", "causal_downsampling": True},
        {"subsampling_factor": 4, "subsampling_type": "striding"},
        {"scale_input": True, "attention_bias": False, "tie_position_biases": True},
    ],
    ids=["plain", "chunks", "band", "local", "absolute", "causal", "striding", "tied"],
)
def test_encoders_of_the_families(changes: dict[str, Any], tmp_path: Path) -> None:
    model: Any = build_model("ctc", **changes).eval()
    parts = {"model.onnx": graphs.ctc_part(model)}
    graphs.write_graph(parts["model.onnx"], tmp_path / "model.onnx", model.config)
    differences = check_stages(model, parts, tmp_path)
    assert max(differences.values()) <= TOLERANCE


@pytest.mark.slow
def test_large_weights_go_into_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_PROTOBUF_BYTES", 1000)
    model: Any = build_model("ctc").eval()
    parts = {"model.onnx": graphs.ctc_part(model)}
    graphs.write_graph(parts["model.onnx"], tmp_path / "model.onnx", model.config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert max(check_stages(model, parts, tmp_path).values()) <= TOLERANCE
