"""Graphs decoded step by step give the tokens of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import build_model

from transformers_fastconformer.export import graphs
from transformers_fastconformer.export.graph_decoding import GraphDecoder, count_edits, list_tokens


class Encoder:
    """The model's own encoder in place of a graph, which takes seconds to make."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def run(self, features: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            encoded = self.model.encode(features.transpose(1, 2), input_lengths=lengths)
        return [encoded.last_hidden_state.transpose(1, 2), encoded.encoder_lengths]


class Step(Encoder):
    """A part of the model, as it was before it became a graph."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def run(self, *arguments: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            outputs = self.part.module(*arguments)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.parametrize("kind", ["rnnt_two_layers", "tdt"])
@pytest.mark.parametrize("is_fused", [True, False])
def test_tokens_are_those_of_the_model(kind: str, is_fused: bool) -> None:
    torch.manual_seed(0)
    model: Any = build_model(kind).eval()
    decoder = GraphDecoder.__new__(GraphDecoder)
    decoder.config, decoder.is_ctc, decoder.is_tdt = model.config, False, kind == "tdt"
    decoder.is_streaming = False
    decoder.encoder = Encoder(model)  # type: ignore[assignment]
    decoder.fused = Step(graphs.decoder_joint_part(model)) if is_fused else None  # type: ignore[assignment]
    decoder.prediction = Step(graphs.prediction_part(model))  # type: ignore[assignment]
    decoder.joint = Step(graphs.joint_part(model))  # type: ignore[assignment]
    features = torch.randn(2, 200, model.config.num_mel_bins)
    lengths = torch.tensor([200, 90])
    encoded = model.encode(features, input_lengths=lengths)
    expected = list_tokens(model.decode_frames(encoded.last_hidden_state, encoded.encoder_lengths)[0])
    assert any(expected)
    assert decoder.decode(features, lengths) == expected


@pytest.mark.slow
def test_graph_of_a_ctc_head(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model: Any = build_model("ctc").eval()
    part = graphs.ctc_part(model)
    graphs.write_graph(part, tmp_path / "model.onnx", model.config)
    features = torch.randn(2, 200, model.config.num_mel_bins)
    lengths = torch.tensor([200, 90])
    encoded = model.encode(features, input_lengths=lengths)
    expected = list_tokens(model.decode_frames(encoded.last_hidden_state, encoded.encoder_lengths)[0])
    decoder = GraphDecoder(model, {"model.onnx": part}, {"model.onnx": tmp_path / "model.onnx"})
    assert decoder.decode(features, lengths) == expected


@pytest.mark.parametrize(
    ("reference", "found", "edits"),
    [([], [], 0), ([1, 2, 3], [1, 2, 3], 0), ([1, 2, 3], [1, 3], 1), ([], [4, 5], 2), ([1, 2], [3, 2, 4], 2)],
)
def test_edits(reference: list[int], found: list[int], edits: int) -> None:
    assert count_edits(reference, found) == edits == count_edits(found, reference)
