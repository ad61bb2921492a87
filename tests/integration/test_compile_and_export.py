"""`torch.compile` of whole models without a break, with few graphs for many lengths, and `torch.export`."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import HEADS, build_model, make_features
from tolerances import GRAPH_ABSOLUTE, GRAPH_RELATIVE
from torch import nn

# Mel frames. The last ones are beyond the encoder frames of a block of queries in `sdpa_attention`.
LENGTHS = [100, 164, 212, 333, 90, 57, 401, 4200, 256, 5001]
LOCAL: dict[str, Any] = {"position_embedding_type": "rel_pos_local_attn", "attention_context": [4, 4]}
CHUNKS: dict[str, Any] = {"attention_context": [4, 1], "attention_context_style": "chunked_limited"}

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class CountingBackend:
    """Runs a captured graph as it is, and counts the graphs."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        self.num_graphs += 1
        return graph.forward


def make_batch(num_frames: int, num_clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = [num_frames, *(max(num_frames - 17 * clip, 1) for clip in range(1, num_clips))]
    return make_features(lengths), torch.tensor(lengths)


def assert_same_frames(ours: Any, truth: Any) -> None:
    assert torch.equal(ours.encoder_lengths, truth.encoder_lengths)
    for one, other, count in zip(ours[0], truth[0], truth.encoder_lengths.tolist(), strict=True):
        torch.testing.assert_close(one[:count], other[:count], rtol=GRAPH_RELATIVE, atol=GRAPH_ABSOLUTE)


def count_graphs(
    model: nn.Module, backend: Any, lengths: list[int], arguments: Callable[..., dict[str, Any]] | None = None
) -> None:
    """Compile without a break and compare each length with the model as it is, in batches of two and three clips."""
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for position, num_frames in enumerate(lengths):
            features, frame_counts = make_batch(num_frames, 2 + position % 2)
            options = {"input_lengths": frame_counts} if arguments is None else arguments(frame_counts)
            assert_same_frames(compiled(features, **options), model(features, **options))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("encoder", {}),
        pytest.param("encoder", LOCAL, marks=pytest.mark.slow),
        pytest.param("encoder", CHUNKS, marks=pytest.mark.slow),
        pytest.param("encoder", {"attn_implementation": "eager"}, marks=pytest.mark.slow),
        pytest.param("encoder", {"position_embedding_type": "abs_pos"}, marks=pytest.mark.slow),
        pytest.param("encoder", {"causal_downsampling": True}, marks=pytest.mark.slow),
        pytest.param("encoder", {"conv_norm_type": "group_norm", "conv_norm_groups": 4}, marks=pytest.mark.slow),
        pytest.param("encoder", {"subsampling_type": "stacking", "subsampling_factor": 4}, marks=pytest.mark.slow),
        pytest.param("encoder", {**LOCAL, "num_global_tokens": 2, "global_tokens_spacing": 2}, marks=pytest.mark.slow),
        pytest.param(
            "encoder",
            {"reduction_type": "pooling", "reduction_factor": 2, "reduction_position": 0},
            marks=pytest.mark.slow,
        ),
        pytest.param("model", {}, marks=pytest.mark.slow),
        *(pytest.param(kind, {}, marks=pytest.mark.slow) for kind in HEADS),
    ],
)
def test_ten_lengths_take_three_graphs_at_most(kind, options):
    """One for the first length, one for any length, and with a window one for clips shorter than a block."""
    backend = CountingBackend()
    count_graphs(build_model(kind, num_hidden_layers=1, **options), backend, LENGTHS)
    assert 1 <= backend.num_graphs <= 3


@pytest.mark.slow
@pytest.mark.skipif(TORCH < (2, 8), reason="torch before 2.8 cannot tell a compiled graph from an exported one")
def test_a_compiled_graph_attends_in_blocks():
    """Nothing in the graph is frames x frames; with gradients, which the operation lacks, torch's own is there."""
    model = build_model("encoder", num_hidden_layers=1)
    features, lengths = make_batch(333, 2)
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        targets[:] = [str(node.target) for node in graph.graph.nodes]
        return graph.forward

    for wants_gradients in (False, True):
        with torch.set_grad_enabled(wants_gradients):
            compiled = torch.compile(model, fullgraph=True, backend=backend)
            assert_same_frames(compiled(features, input_lengths=lengths), model(features, input_lengths=lengths))
        assert any("blocked_attention" in target for target in targets) == (not wants_gradients)
        assert any("scaled_dot_product_attention" in target for target in targets) == wants_gradients


def test_compiled_graphs_keep_autocast_and_dropout():
    model = build_model("encoder", num_hidden_layers=1, attention_dropout=0.5)
    features, _ = make_batch(160, 1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = compiled(features)[0], model(features)[0]
        torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.1)
        model.layers[0].self_attn.train()  # nothing else draws
        assert not torch.equal(compiled(features)[0], compiled(features)[0])


@pytest.mark.slow
def test_masks_and_whole_clips_compile():
    model = build_model("encoder", num_hidden_layers=1)
    backend = CountingBackend()
    count_graphs(model, backend, LENGTHS, lambda counts: {})
    assert backend.num_graphs <= 2
    count_graphs(
        model, backend, LENGTHS, lambda counts: {"attention_mask": torch.arange(int(counts.max())) < counts[:, None]}
    )
    assert backend.num_graphs <= 4


@pytest.mark.slow
def test_a_dynamic_length_needs_one_graph():
    """Told that lengths differ, the compiler makes one graph, and none again: each further one would be an error."""
    model = build_model("encoder", num_hidden_layers=1)
    backend = CountingBackend()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for num_frames in (90, 57, 401):
            features, lengths = make_batch(num_frames, 2)
            compiled(features, input_lengths=lengths)
    assert backend.num_graphs == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_compiled_training_step_equals_the_plain_one(is_checkpointed):
    options = dict.fromkeys(("dropout", "activation_dropout", "attention_dropout", "dropout_pre_encoder"), 0.0)

    def step(is_compiled: bool) -> dict[str, torch.Tensor]:
        model = build_model("encoder", num_hidden_layers=1, **options).train()
        if is_checkpointed:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        features, lengths = make_batch(80, 2)
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if is_compiled else model
        run(features, input_lengths=lengths).last_hidden_state[:, :6].square().mean().backward()
        return {**dict(model.named_buffers()), **{name: weight.grad for name, weight in model.named_parameters()}}

    plain, compiled = step(False), step(True)
    assert int(plain["layers.0.conv.norm.num_batches_tracked"]) == 1
    if is_checkpointed and TORCH < (2, 8):
        # A graph of torch 2.6 and 2.7 runs the block twice, its running statistics included; 2.13 does not.
        plain = {name: truth for name, truth in plain.items() if not name.endswith(STATISTICS)}
    for name, truth in plain.items():
        torch.testing.assert_close(compiled[name], truth, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler at hand")
@pytest.mark.parametrize("options", [{}, LOCAL, CHUNKS], ids=["full", "local", "chunks"])
def test_inductor_computes_the_same(options):
    model = build_model("encoder", **options)
    count_graphs(model, "inductor", [100, 164, 333, 57])


# torch.export


class EncodedFrames(nn.Module):
    """A model with tensors alone at its output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(features, input_lengths=lengths)
        return output[0], output.encoder_lengths


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("encoder", {}),
        pytest.param("ctc", {}, marks=pytest.mark.slow),
        pytest.param("encoder", CHUNKS, marks=pytest.mark.slow),
        pytest.param("encoder", LOCAL, marks=pytest.mark.slow),
        pytest.param("model", {"attn_implementation": "eager"}, marks=pytest.mark.slow),
        pytest.param("tdt_hybrid_ctc", {}, marks=pytest.mark.slow),
        pytest.param("tdt", {}, marks=pytest.mark.slow),
    ],
)
def test_an_exported_model_takes_any_batch_and_any_length(kind, options):
    """
    Dimensions that `torch.export` must not tie to one number; saved and loaded again.

    The exporter holds the case of one or two encoder frames, or of one block of local attention, for another graph:
    its program refuses features shorter than 17, or 257, mel frames, which are to be padded to that.
    """
    shortest = 257 if options is LOCAL else 17
    model = build_model(kind, num_hidden_layers=1, **options)
    clips = frames = torch.export.Dim.DYNAMIC
    features, lengths = make_batch(600, 2)
    program = torch.export.export(
        EncodedFrames(model).eval(),
        (features, lengths),
        dynamic_shapes=({0: clips, 1: frames}, {0: clips}),
        strict=False,
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for num_frames, num_clips in ((403, 3), (shortest, 1), (4200, 2)):
        features, lengths = make_batch(num_frames, num_clips)
        with torch.no_grad():
            truth = model(features, input_lengths=lengths)
            ours, encoder_lengths = loaded(features, lengths)
        assert torch.equal(encoder_lengths, truth.encoder_lengths)
        for one, other, count in zip(ours, truth[0], truth.encoder_lengths.tolist(), strict=True):
            torch.testing.assert_close(one[:count], other[:count], rtol=GRAPH_RELATIVE, atol=GRAPH_ABSOLUTE)
