"""Which strategy a clip is given, and what it makes of the model."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from models import build_config, build_model, make_features

import transformers_fastconformer.inference.strategy as module
from transformers_fastconformer import FastConformerCTCConfig
from transformers_fastconformer.inference.chunked import transcribe_features
from transformers_fastconformer.inference.clip_features import ClipFeatures
from transformers_fastconformer.inference.estimates import estimate_one_pass_bytes
from transformers_fastconformer.inference.options import ChunkOptions, TranscriptionOptions
from transformers_fastconformer.inference.strategy import (
    DEFAULT_CHUNK_SECONDS,
    DEFAULT_LOCAL_CHUNK_SECONDS,
    ChosenStrategy,
    check_strategy,
    choose_strategy,
    plan_chunks,
    share_with_local_attention,
)

FRAME_SECONDS = 0.08
MINUTE = 6000  # mel frames
LOCAL = {"position_embedding_type": "rel_pos_local_attn", "attention_context": [4, 4]}
CHUNKED = {"attention_context": [8, 1], "attention_context_style": "chunked_limited"}


SHAPE_110M = {"num_mel_bins": 80, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
ABSOLUTE = {"position_embedding_type": "abs_pos"}


def decide(
    model: Any, mel_length: int, monkeypatch: pytest.MonkeyPatch, free_bytes: float, num_clips: int = 1, **options: Any
) -> ChosenStrategy:
    monkeypatch.setattr(module, "available_bytes", lambda device: free_bytes)
    return choose_strategy(model, mel_length, FRAME_SECONDS, TranscriptionOptions.of(None, options), num_clips)


def choose(model: Any, mel_length: int, monkeypatch: pytest.MonkeyPatch, free_bytes: float, **options: Any) -> str:
    return decide(model, mel_length, monkeypatch, free_bytes, **options).name


class Shape:
    """A published shape without its weights, which nothing asks for here."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, **shape: Any) -> None:
        self.config = FastConformerCTCConfig(**shape, num_hidden_layers=17, vocab_size=1025)

    def with_attention_context(self, *given: Any, **named: Any) -> Shape:
        return self


@pytest.mark.parametrize(
    ("overrides", "minutes", "expected"),
    [
        ({}, 0.5, "full"),
        ({}, 1, "full"),
        ({}, 5, "local"),
        ({}, 600, "local"),
        (LOCAL, 600, "full"),
        (CHUNKED, 600, "full"),
        (ABSOLUTE, 1, "full"),
        (ABSOLUTE, 25, "chunked"),
    ],
)
def test_auto_goes_by_length(
    overrides: dict[str, Any], minutes: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = Shape(**SHAPE_110M, **overrides)
    chosen = decide(model, round(minutes * MINUTE), monkeypatch, free_bytes=1e15)
    assert chosen.name == expected
    assert chosen.reason
    assert "\n" not in chosen.reason
    assert (chosen.plan is None) == (expected == "full")


def test_clips_of_a_minute_are_seen_whole_in_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their result is NeMo's, though in a small shape local attention would take less time."""
    small: Any = Shape(num_mel_bins=80, hidden_size=96, intermediate_size=192, num_attention_heads=4)
    assert choose(small, MINUTE, monkeypatch, free_bytes=1e15) == "full"
    assert choose(small, 2 * MINUTE, monkeypatch, free_bytes=1e15) == "local"


def test_auto_goes_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Shape(**SHAPE_110M)
    full = estimate_one_pass_bytes(model.config, MINUTE)
    assert choose(model, MINUTE, monkeypatch, 2 * full) == "full"
    chosen = decide(model, MINUTE, monkeypatch, 2 * full - 2)
    assert chosen.name == "local"
    assert "GB" in chosen.reason
    assert choose(model, MINUTE, monkeypatch, 2 * full, num_clips=2) != "full"
    limited: Any = Shape(**SHAPE_110M, **LOCAL)
    length = 30 * MINUTE
    needed = estimate_one_pass_bytes(limited.config, length, is_local=True)
    assert choose(limited, length, monkeypatch, 2 * needed) == "full"
    assert choose(limited, length, monkeypatch, 2 * needed - 2) == "chunked"


def test_windows_are_as_many_and_as_long_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Shape(**SHAPE_110M)
    length = 60 * MINUTE
    roomy = decide(model, length, monkeypatch, 1e15)
    assert roomy.plan is not None
    assert roomy.plan.window_frames == int(DEFAULT_LOCAL_CHUNK_SECONDS / FRAME_SECONDS)
    assert roomy.batch_size == 2  # 240 s at a time
    assert decide(model, length, monkeypatch, 1e15, batch_seconds=1200.0).batch_size == 8
    assert decide(model, length, monkeypatch, 1e15, batch_seconds=1200.0, batch_size=3).batch_size == 3
    window = estimate_one_pass_bytes(model.config, roomy.plan.window_frames * 8, is_local=True)
    assert decide(model, length, monkeypatch, 2 * 2 * window - 2).batch_size == 1
    scarce = decide(model, length, monkeypatch, 2 * window - 2)
    assert scarce.plan is not None
    assert scarce.plan.window_frames == int(DEFAULT_LOCAL_CHUNK_SECONDS / 2 / FRAME_SECONDS)
    least = decide(model, length, monkeypatch, 0)
    assert least.plan is not None
    assert least.plan.window_frames == 187  # 15 s
    assert least.batch_size == 1


def test_short_clips_in_windows_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is bounded by what it holds, not by windows that are longer than its clips."""
    model: Any = Shape(**SHAPE_110M)
    assert decide(model, MINUTE // 6, monkeypatch, 1e15, chunk_length_s=60.0).batch_size == 8
    assert decide(model, 2 * MINUTE, monkeypatch, 1e15, chunk_length_s=60.0).batch_size == 4


def test_windows_of_a_model_with_limited_attention_take_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Shape(**SHAPE_110M, **LOCAL)
    window = estimate_one_pass_bytes(model.config, MINUTE, is_local=True)
    chosen = decide(model, 600 * MINUTE, monkeypatch, 2 * window)
    assert (chosen.name, chosen.batch_size, chosen.restarts) == ("chunked", 1, False)
    assert chosen.plan is not None
    assert chosen.plan.window_frames == int(DEFAULT_CHUNK_SECONDS / FRAME_SECONDS)


def test_a_clip_without_a_frame_is_seen_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Shape(**SHAPE_110M)
    assert choose(model, 0, monkeypatch, 1e15) == "full"


def test_at_most_a_tenth_is_encoded_twice() -> None:
    config = build_config("ctc")
    for name, seconds in (("chunked", DEFAULT_CHUNK_SECONDS), ("local", DEFAULT_LOCAL_CHUNK_SECONDS)):
        plan = plan_chunks(config, FRAME_SECONDS, ChunkOptions(name, seconds))
        assert plan is not None
        assert plan.left_frames == plan.right_frames == 25
        assert (plan.left_frames + plan.right_frames) / plan.step_frames < 0.1


def test_a_model_that_cannot_be_cut_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pooling = {"reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 4}
    assert choose(build_model("ctc", **pooling), MINUTE, monkeypatch, free_bytes=0) == "local"
    assert choose(build_model("ctc", **pooling, **LOCAL), MINUTE, monkeypatch, free_bytes=0) == "full"


def test_a_strategy_that_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("ctc")
    for strategy in ("full", "local", "chunked"):
        assert choose(model, 600 * MINUTE, monkeypatch, free_bytes=0, strategy=strategy) == strategy
        assert choose(model, MINUTE, monkeypatch, free_bytes=1e15, strategy=strategy) == strategy
    chosen = decide(model, MINUTE, monkeypatch, 1e15, strategy="chunked")
    assert chosen.model is model
    assert chosen.plan is not None
    assert chosen.plan.window_frames == int(DEFAULT_CHUNK_SECONDS / FRAME_SECONDS)
    assert chosen.reason == ""
    by_length = decide(model, MINUTE, monkeypatch, 1e15, chunk_length_s=8.0)
    assert by_length.name == "chunked"
    assert by_length.plan is not None
    assert by_length.plan.window_frames == 100
    for name in ("full", "local"):
        assert decide(model, MINUTE, monkeypatch, 1e15, strategy=name).plan is None
    in_windows = decide(model, MINUTE, monkeypatch, 1e15, strategy="local", chunk_length_s=8.0)
    assert (in_windows.name, in_windows.plan) == ("local", by_length.plan)
    assert in_windows.model.config.attention_context == [128, 128]
    assert in_windows.restarts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best"}, "strategy='best' is not supported; expected one of"),
        ({"strategy": "full", "chunk_length_s": 8.0}, "chunk_length_s=8.0 is not supported with strategy='full'"),
        ({"strategy": "full", "stride_length_s": 1.0}, "stride_length_s=1.0 needs chunk_length_s"),
        ({"strategy": "chunked", "stride_length_s": 30.0}, "chunk_length_s=60.0 is not supported with stride"),
        ({"strategy": "auto", "chunk_length_s": -1.0}, "chunk_length_s=-1.0 is not supported"),
    ],
)
def test_strategies_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_strategy(build_config("ctc"), FRAME_SECONDS, ChunkOptions(**options))


def test_local_needs_relative_positions() -> None:
    config = build_config("ctc", position_embedding_type="abs_pos")
    with pytest.raises(ValueError, match="strategy='local' is not supported for a model with position_embedding_typ"):
        check_strategy(config, FRAME_SECONDS, ChunkOptions("local"))


# Local attention for one clip


@pytest.mark.parametrize("kind", ["ctc", "tdt", "rnnt_hybrid_ctc"])
def test_local_attention_shares_all_and_changes_nothing(kind: str) -> None:
    model = build_model(kind)
    before = model.config.to_dict()
    local = share_with_local_attention(model)
    assert type(local) is type(model)
    ours, theirs = (dict(some.named_parameters()) | dict(some.named_buffers()) for some in (local, model))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert model.config.to_dict() == before
    assert local.config.position_embedding_type == "rel_pos_local_attn"
    assert local.config.attention_context == [128, 128]
    # What a layer is registered by elsewhere (8-bit weights, hooks) is the layer itself.
    assert local.encoder.layers[0].feed_forward1.linear1 is model.encoder.layers[0].feed_forward1.linear1
    assert local.encoder.layers[0].self_attn.q_proj is model.encoder.layers[0].self_attn.q_proj

    # A model that was made with that attention gives the same.
    expected = build_model(kind, position_embedding_type="rel_pos_local_attn", attention_context=[128, 128])
    clip = ClipFeatures(make_features([3000])[0], 2999)
    found = transcribe_features(local, [clip])
    reference = transcribe_features(expected, [clip])
    assert torch.equal(found.sequences, reference.sequences)
    assert torch.equal(found.log_probs, reference.log_probs)
    assert not torch.equal(transcribe_features(model, [clip]).log_probs, found.log_probs)


@pytest.mark.parametrize("overrides", [LOCAL, CHUNKED])
def test_limited_models_keep_their_attention(overrides: dict[str, Any]) -> None:
    model = build_model("ctc", **overrides)
    assert share_with_local_attention(model) is model


def test_others_use_the_model_meanwhile() -> None:
    model = build_model("ctc")
    clip = ClipFeatures(make_features([2400])[0], 2399)
    expected = {"full": transcribe_features(model, [clip])}
    expected["local"] = transcribe_features(share_with_local_attention(model), [clip])
    errors: list[str] = []

    def run(strategy: str) -> None:
        for _ in range(10):
            options = TranscriptionOptions(chunking=ChunkOptions(strategy))
            chosen = choose_strategy(model, 2399, FRAME_SECONDS, options)
            found = transcribe_features(chosen.model, [clip])
            if not torch.equal(found.log_probs, expected[strategy].log_probs):
                errors.append(strategy)

    threads = [threading.Thread(target=run, args=(strategy,)) for strategy in ("full", "local")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
