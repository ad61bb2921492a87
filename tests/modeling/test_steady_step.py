"""Steps over fixed buffers equal plain steps, and are taken for streams in the middle of their audio only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from called_graphs import CalledGraph, capture_as_calls
from models import build_model

from transformers_fastconformer import FastConformerEncoderCache, StreamingSchedule
from transformers_fastconformer.kernels import graph_cache
from transformers_fastconformer.kernels.graph_cache import GraphCache

CAUSAL: dict[str, Any] = {"causal_downsampling": True, "conv_context": [4, 0], "conv_norm_type": "layer_norm"}
CHUNKS: dict[str, Any] = {**CAUSAL, "attention_context_style": "chunked_limited", "attention_context": [6, 2]}
MODELS: dict[str, dict[str, Any]] = {
    "chunks": CHUNKS,
    "batch norm, unscaled, projected": {
        **CHUNKS,
        "conv_norm_type": "batch_norm",
        "scale_input": False,
        "encoder_output_size": 12,
    },
    "stacking x4": {**CHUNKS, "subsampling_type": "stacking_norm", "subsampling_factor": 4},
    "speakers": {**CHUNKS, "has_speaker_kernel": True},
    "band that looks ahead": {**CAUSAL, "attention_context": [5, 1]},
    "band and convolutions that look ahead": {**CAUSAL, "attention_context": [5, 1], "conv_context": [2, 2]},
}
NUM_ROWS = 3
STATE = ("mel", "keys", "values", "convolutions")


@pytest.fixture
def called_graphs(monkeypatch: pytest.MonkeyPatch) -> type[CalledGraph]:
    return capture_as_calls(monkeypatch)


@torch.no_grad()
def run_steps(encoder: Any, cache: FastConformerEncoderCache, num_steps: int = 14) -> list[torch.Tensor]:
    """Frames of every step of streams that start one after the other, of which one sits some steps out."""
    generator = torch.Generator().manual_seed(7)
    device, found = cache.device, []
    for step in range(num_steps):
        lengths = [
            cache.next_mel_frames(row) if step >= row and not (row == 1 and step % 5 == 4) else 0
            for row in range(cache.num_streams)
        ]
        is_last = [step == num_steps - 1] * cache.num_streams
        features = torch.randn(cache.num_streams, max(lengths), encoder.config.num_mel_bins, generator=generator)
        output = encoder(
            features.to(device, cache.dtype),
            input_lengths=torch.tensor(lengths, device=device),
            cache=cache,
            is_last=is_last,
        )
        for row, length in enumerate(output.encoder_lengths.tolist()):
            found.append(output.last_hidden_state[row, :length])
    return found


def assert_equal_state(cache: FastConformerEncoderCache, expected: FastConformerEncoderCache) -> None:
    assert cache.counts == expected.counts
    for name in STATE:
        assert torch.equal(getattr(cache, name), getattr(expected, name)), name


@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_steps_through_fixed_buffers_are_plain_steps(
    name: str, is_exact: bool, called_graphs: type[CalledGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build_model("encoder", **MODELS[name])
    schedule = StreamingSchedule.of(encoder.config, is_exact=is_exact)
    plain, captured = (FastConformerEncoderCache.for_model(encoder, schedule, NUM_ROWS) for _ in range(2))
    plain.graphs = GraphCache(max_captures=0)
    expected = run_steps(encoder, plain)
    assert called_graphs.num_replays == 0
    found = run_steps(encoder, captured)
    assert called_graphs.num_replays > 5
    assert captured.graphs.num_captures == 2  # of two and of three streams
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=2e-6)
    assert captured.counts == plain.counts
    for tensor in STATE:
        torch.testing.assert_close(getattr(captured, tensor), getattr(plain, tensor), rtol=1e-5, atol=2e-6)


@pytest.mark.usefixtures("called_graphs")
def test_capturing_leaves_the_streams_as_they_are() -> None:
    """Warm-ups move rings and convolutions on: a stream goes on as if there had been none."""
    encoder = build_model("encoder", **CHUNKS)
    schedule = StreamingSchedule.of(encoder.config)
    chunks = torch.randn(1, schedule.first_mel_frames + 3 * schedule.mel_frames, 8).split(
        [schedule.first_mel_frames, *[schedule.mel_frames] * 3], dim=1
    )
    results = []
    for graphs in (GraphCache(max_captures=0), None):
        cache = FastConformerEncoderCache.for_model(encoder, schedule)
        cache.graphs = graphs
        with torch.inference_mode():  # and buffers made there serve outside of it
            frames = [encoder(chunk, cache=cache).last_hidden_state.clone() for chunk in chunks[:2]]
        with torch.no_grad():
            frames += [encoder(chunk, cache=cache).last_hidden_state for chunk in chunks[2:]]
        results.append(torch.cat(frames, dim=1))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=2e-6)


def test_a_step_that_cannot_be_captured_is_done_plainly(
    called_graphs: type[CalledGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_after_a_warm_up(run: Callable[[], None], device: torch.device, pool: Any) -> Any:
        run()
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(graph_cache, "record_graph", fail_after_a_warm_up)
    encoder = build_model("encoder", **CHUNKS)
    caches = [
        FastConformerEncoderCache.for_model(encoder, StreamingSchedule.of(encoder.config), NUM_ROWS) for _ in range(2)
    ]
    caches[0].graphs = GraphCache(max_captures=0)
    expected, found = (run_steps(encoder, cache) for cache in caches)
    assert called_graphs.num_replays == caches[1].graphs.max_captures == 0
    for ours, reference in zip(found, expected, strict=True):
        assert torch.equal(ours, reference)
    assert_equal_state(caches[1], caches[0])


def test_changed_weights_and_hooks_are_seen(called_graphs: type[CalledGraph]) -> None:
    encoder = build_model("encoder", **CHUNKS)
    schedule = StreamingSchedule.of(encoder.config)
    cache = FastConformerEncoderCache.for_model(encoder, schedule)
    chunk = torch.randn(1, schedule.mel_frames, 8)

    def step() -> int:
        before = called_graphs.num_replays
        with torch.no_grad():
            encoder(chunk, cache=cache)
        return called_graphs.num_replays - before

    with torch.no_grad():
        encoder(torch.randn(1, schedule.first_mel_frames, 8), cache=cache)
    assert [step(), step(), cache.graphs.num_captures] == [1, 1, 1]
    with torch.no_grad():
        encoder.layers[0].conv.pointwise_conv1.weight.mul_(2.0)
    assert [step(), cache.graphs.num_captures] == [1, 2]
    calls: list[Any] = []
    hook = encoder.layers[1].register_forward_hook(lambda *given: calls.append(given))
    assert [step(), len(calls)] == [0, 1]
    hook.remove()
    assert [step(), cache.graphs.num_captures] == [1, 2]


def test_caches_of_their_own_have_their_own_graphs(called_graphs: type[CalledGraph]) -> None:
    encoder = build_model("encoder", **CHUNKS)
    cache = FastConformerEncoderCache.for_model(encoder, StreamingSchedule.of(encoder.config), 2)
    run_steps(encoder, cache, num_steps=6)
    assert cache.graphs.num_captures > 0
    for other in (cache.select([0]), FastConformerEncoderCache.concatenate([cache, cache]), cache.to("cpu")):
        assert other.graphs is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_graphs_equal_plain_steps_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    """The same kernels on the same values: the same frames, rings and convolutions."""
    encoder = build_model("encoder", **MODELS[name]).to("cuda", dtype)
    schedule = StreamingSchedule.of(encoder.config)
    caches = [FastConformerEncoderCache.for_model(encoder, schedule, NUM_ROWS) for _ in range(2)]
    caches[0].graphs = GraphCache(max_captures=0)
    expected, found = (run_steps(encoder, cache) for cache in caches)
    assert caches[1].graphs.num_captures == 2
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)
    assert caches[1].counts == caches[0].counts
    for tensor in STATE:
        torch.testing.assert_close(
            getattr(caches[1], tensor), getattr(caches[0], tensor), rtol=tolerance, atol=tolerance
        )


@pytest.mark.gpu
def test_a_captured_step_is_faster_than_a_plain_one() -> None:
    """What the graph is for: the same step without its launches, of as many blocks as the published models have."""
    encoder = build_model("encoder", **{**CHUNKS, "num_hidden_layers": 17}).to("cuda")
    schedule = StreamingSchedule.of(encoder.config)
    seconds = []
    for graphs in (GraphCache(max_captures=0), None):
        cache = FastConformerEncoderCache.for_model(encoder, schedule)
        cache.graphs = graphs
        run_steps(encoder, cache, num_steps=5)
        cache.reset([0])
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        chunk = torch.zeros(1, schedule.mel_frames, 8, device="cuda")
        with torch.no_grad():
            encoder(torch.zeros(1, schedule.first_mel_frames, 8, device="cuda"), cache=cache)
            start.record()
            for _ in range(50):
                encoder(chunk, cache=cache)
            end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end))
    assert seconds[1] < 0.5 * seconds[0]
