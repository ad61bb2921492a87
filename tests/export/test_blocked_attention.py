"""Attention in ONNX Runtime against the plain form, for numbers of frames around those of a block."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer.export.blocked_attention import (
    BLOCK_FRAMES,
    DOMAIN,
    OPERATOR,
    OPERATOR_VERSION,
    give_meaning,
)
from transformers_fastconformer.modeling.full_attention import eager_attention
from transformers_fastconformer.modeling.masking import ContextWindow, lengths_to_mask

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

HEADS, HEAD_SIZE = 2, 4
NAMES = ("query_u", "query_v", "key", "value", "position_key", "padding_mask")


def build_session(window: ContextWindow) -> Any:
    """A graph of the operator only."""
    floats, bools = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
    states = ["b", HEADS, "t", HEAD_SIZE]
    shapes = [states, states, states, states, [1, HEADS, "p", HEAD_SIZE], ["b", "t"]]
    inputs = [
        onnx.helper.make_tensor_value_info(name, bools if name == "padding_mask" else floats, shape)
        for name, shape in zip(NAMES, shapes, strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("output", floats, states)
    node = onnx.helper.make_node(OPERATOR, NAMES, ["output"], domain=DOMAIN)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, OPERATOR_VERSION)]
    graph = onnx.helper.make_graph([node], "attention", inputs, [output])
    model = give_meaning(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), window)
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "window",
    [ContextWindow(), ContextWindow(1, 3, 2), ContextWindow(4, 8, 0), ContextWindow(3, None, 2)],
    ids=["unlimited", "band", "chunks", "chunks with all of the past"],
)
def test_same_as_the_plain_form(window: ContextWindow) -> None:
    session = build_session(window)
    generator = torch.Generator().manual_seed(3)
    for num_clips, num_frames in ((1, 1), (1, 2), (2, 7), (2, BLOCK_FRAMES), (1, BLOCK_FRAMES + 1), (2, 300)):
        query_u, query_v, key, value = (
            torch.randn(num_clips, HEADS, num_frames, HEAD_SIZE, generator=generator) for _ in range(4)
        )
        position_key = torch.randn(1, HEADS, 2 * num_frames - 1, HEAD_SIZE, generator=generator)
        lengths = torch.tensor([num_frames, max(num_frames - 3, 1)][:num_clips])
        padding_mask = lengths_to_mask(lengths, num_frames)
        frames = torch.arange(num_frames)
        mask = padding_mask[:, None, None] & window.build_mask(frames, frames)
        expected, _ = eager_attention(query_u, query_v, key, value, position_key, mask, 0.0)
        scale = 1 / math.sqrt(HEAD_SIZE)
        arguments = (query_u * scale, query_v * scale, key, value, position_key, padding_mask)
        inputs = {name: tensor.numpy() for name, tensor in zip(NAMES, arguments, strict=True)}
        (found,) = session.run(None, inputs)
        for clip, length in enumerate(lengths.tolist()):  # queries in the padding are read by nobody
            np.testing.assert_allclose(
                found[clip, :, :length], expected[clip, :, :length].numpy(), atol=2e-6, err_msg=str(num_frames)
            )


def test_memory_of_a_long_clip_is_that_of_its_blocks() -> None:
    """No tensor of frames x frames exists: ONNX Runtime's arena stays far below one of them."""
    import resource

    session = build_session(ContextWindow())
    num_frames = 8000
    states = np.zeros((1, HEADS, num_frames, HEAD_SIZE), dtype=np.float32)
    positions = np.zeros((1, HEADS, 2 * num_frames - 1, HEAD_SIZE), dtype=np.float32)
    inputs = dict(zip(NAMES, (states,) * 4 + (positions, np.ones((1, num_frames), dtype=bool)), strict=True))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    session.run(None, inputs)
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown_bytes < HEADS * num_frames * num_frames * 4 / 4


def test_weights_are_not_serialised_with_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of large models would not go into one message."""
    seen = []
    inline = onnx.inliner.inline_local_functions
    monkeypatch.setattr(
        onnx.inliner, "inline_local_functions", lambda model: seen.append(model.ByteSize()) or inline(model)
    )
    floats = onnx.TensorProto.FLOAT
    value = np.arange(30_000, dtype=np.float32)
    weights = [
        onnx.numpy_helper.from_array(value, "large"),
        onnx.helper.make_tensor("small", onnx.TensorProto.FLOAT, [2], [1.0, 2.0]),
    ]
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}_output"]) for name in ("large", "small")]
    outputs = [onnx.helper.make_tensor_value_info(f"{name}_output", floats, None) for name in ("large", "small")]
    graph = onnx.helper.make_graph(nodes, "weights", [], outputs, weights)
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = give_meaning(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), ContextWindow())
    assert seen[0] < 20_000
    large, small = map(onnx.numpy_helper.to_array, model.graph.initializer)
    assert (large == value).all()
    assert small.tolist() == [1.0, 2.0]
