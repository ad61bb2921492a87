"""How models stream: which form is chosen, which lengths, and that windows give each frame once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_models import CACHED, build_live
from models import build_config, build_model, make_features

from transformers_fastconformer import EngineOptions
from transformers_fastconformer.streaming.chunk_encoders import (
    BufferedEncoder,
    BufferPlan,
    build_chunk_encoder,
    can_be_cached,
    plan_buffer,
)

FRAME_SECONDS = 0.08
UNIFIED = {"attention_context": [10, 4, 2], "attention_context_style": "chunked_limited_with_rc"}


def test_auto_takes_the_cache_where_there_is_one() -> None:
    live, _ = build_live("ctc")
    assert can_be_cached(live.config)
    assert build_chunk_encoder(live, EngineOptions(), FRAME_SECONDS).name == "cached"
    assert build_chunk_encoder(live, EngineOptions(mode="buffered"), FRAME_SECONDS).name == "buffered"
    offline = build_model("ctc")
    assert not can_be_cached(offline.config)
    assert build_chunk_encoder(offline, EngineOptions(), FRAME_SECONDS).name == "buffered"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (EngineOptions(latency_ms=960), (125, 4, 8)),
        (EngineOptions(), (125, 8, 17)),
        (EngineOptions(latency_ms=80), (125, 1, 0)),
        (EngineOptions(left_seconds=1.6, chunk_seconds=0.4, right_seconds=0.8), (20, 5, 10)),
    ],
)
def test_lengths_by_latency_and_by_seconds(options: EngineOptions, expected: tuple[int, int, int]) -> None:
    plan, context = plan_buffer(build_config("ctc"), options, FRAME_SECONDS)
    assert (plan.left_frames, plan.chunk_frames, plan.right_frames) == expected
    assert context is None
    if options.chunk_seconds is None:
        latency_ms = options.latency_ms or 2000
        assert (plan.chunk_frames + plan.right_frames) * 80 <= latency_ms


def test_windows_lie_on_the_chunks_of_attention() -> None:
    config = build_config("ctc", attention_context=[9, 2], attention_context_style="chunked_limited")
    plan, _ = plan_buffer(config, EngineOptions(latency_ms=960), FRAME_SECONDS)
    assert [frames % 3 for frames in (plan.left_frames, plan.chunk_frames, plan.right_frames)] == [0, 0, 0]


def test_unified_checkpoints_stream_with_the_attention_of_their_windows() -> None:
    model = build_model("ctc", **UNIFIED)
    encoder = build_chunk_encoder(model, EngineOptions(attention_context=[10, 4, 2]), FRAME_SECONDS)
    assert isinstance(encoder, BufferedEncoder)
    assert encoder.plan == BufferPlan(10, 4, 2)
    assert encoder.model.config.attention_context == [10, 4, 2]
    by_latency = build_chunk_encoder(model, EngineOptions(latency_ms=960), FRAME_SECONDS)
    assert by_latency.model.config.attention_context == [125, 4, 8]
    assert not by_latency.restarts
    assert model.config.attention_context == UNIFIED["attention_context"]
    with pytest.raises(ValueError, match="attention_context"):
        build_chunk_encoder(model, EngineOptions(attention_context=[10, 4]), FRAME_SECONDS)


@pytest.mark.parametrize("plan", [BufferPlan(6, 3, 2), BufferPlan(0, 1, 0), BufferPlan(50, 2, 9)], ids=str)
def test_windows_give_each_frame_once_whatever_the_neighbours(plan: BufferPlan) -> None:
    model = build_model("ctc")
    features = make_features([333, 190])
    alone: dict[int, torch.Tensor] = {}
    for row, length in enumerate((333, 190)):
        encoder = BufferedEncoder(model, plan)
        encoder.open(row)
        alone[row] = torch.cat(list(run(encoder, {row: features[row, :length]})[row]))
        assert alone[row].shape[0] == model.config.count_encoder_frames(length)
    encoder = BufferedEncoder(model, plan)
    for row in (0, 1):
        encoder.open(row)
    together = run(encoder, {0: features[0, :333], 1: features[1, :190]})
    for row in (0, 1):
        torch.testing.assert_close(torch.cat(together[row]), alone[row], rtol=1e-5, atol=1e-5)


def run(encoder: BufferedEncoder, clips: dict[int, torch.Tensor]) -> dict[int, list[torch.Tensor]]:
    """Final frames of clips that are given in the chunks that the encoder wants."""
    given: dict[int, list[torch.Tensor]] = {row: [] for row in clips}
    rest = dict(clips)
    while rest:
        chunks, are_last = {}, {}
        for row, clip in rest.items():
            wanted = encoder.wanted_mel_frames(row)
            chunks[row], are_last[row] = clip[:wanted], clip.shape[0] <= wanted
        found = encoder.encode(chunks, are_last, dict.fromkeys(chunks))
        for row, chunk in found.items():
            given[row].append(chunk.frames)
        rest = {row: clip[chunks[row].shape[0] :] for row, clip in rest.items() if not are_last[row]}
    return given


def test_a_window_that_sees_all_gives_the_frames_of_the_whole_clip() -> None:
    model = build_model("ctc")
    clip = make_features([240])[0]
    encoder = BufferedEncoder(model, BufferPlan(100, 5, 100))
    encoder.open(0)
    found = torch.cat(run(encoder, {0: clip})[0])
    whole: Any = model.encode(clip[None])
    torch.testing.assert_close(found, whole.last_hidden_state[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (
            {"reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 4},
            {},
            "reduction_type='pooling' is not supported; expected None for a stream",
        ),
        ({}, {"latency_ms": 79}, "latency_ms=79 is not supported; expected 80 or more"),
        ({}, {"attention_context": [70, 1]}, "attention_context"),
        ({}, {"mode": "cached"}, "attention_context|causal|context"),
        (CACHED, {"latency_ms": 10}, r"latency_ms=10 is not supported; expected one of \[80, 160, 320\]"),
    ],
)
def test_what_cannot_stream_is_refused(overrides: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_chunk_encoder(build_model("ctc", **overrides), EngineOptions(**options), FRAME_SECONDS)
