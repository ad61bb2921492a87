"""Which strategy a clip is given, what it makes of the model, and how much memory there is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from models import BLANK, build_config, build_model, make_features

import transformers_fastconformer.inference.strategy as module
from transformers_fastconformer import FastConformerCTCConfig
from transformers_fastconformer.inference.chunked import transcribe_features
from transformers_fastconformer.inference.clip_features import ClipFeatures
from transformers_fastconformer.inference.options import ChunkOptions
from transformers_fastconformer.inference.strategy import (
    DEFAULT_CHUNK_SECONDS,
    available_bytes,
    check_strategy,
    choose_strategy,
    estimate_one_pass_bytes,
    share_with_local_attention,
)

FRAME_SECONDS = 0.08
MINUTE = 6000  # mel frames
LOCAL = {"position_embedding_type": "rel_pos_local_attn", "attention_context": [4, 4]}
CHUNKED = {"attention_context": [8, 1], "attention_context_style": "chunked_limited"}


def choose(model: Any, mel_length: int, monkeypatch: pytest.MonkeyPatch, free_bytes: float, **options: Any) -> str:
    monkeypatch.setattr(module, "available_bytes", lambda device: free_bytes)
    num_clips = options.pop("num_clips", 1)
    return choose_strategy(model, mel_length, FRAME_SECONDS, ChunkOptions(**options), num_clips).name


@pytest.mark.parametrize(
    ("overrides", "minutes", "expected"),
    [
        ({}, 1, "full"),
        ({}, 23.9, "full"),
        ({}, 24.1, "local"),
        ({}, 179, "local"),
        ({}, 181, "chunked"),
        (LOCAL, 600, "full"),
        (CHUNKED, 600, "full"),
        ({"position_embedding_type": "abs_pos"}, 25, "chunked"),
    ],
)
def test_auto_goes_by_length(
    overrides: dict[str, Any], minutes: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("ctc", **overrides)
    assert choose(model, round(minutes * MINUTE), monkeypatch, free_bytes=1e15) == expected


def test_auto_goes_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Few channels, so that the blocks take most and local attention saves some of it.
    model = build_model("ctc", subsampling_conv_channels=1)
    length = 10 * MINUTE
    full, local = (estimate_one_pass_bytes(model.config, length, is_local=is_local) for is_local in (False, True))
    assert full > local
    assert choose(model, length, monkeypatch, 2 * full) == "full"
    assert choose(model, length, monkeypatch, 2 * full - 2) == "local"
    assert choose(model, length, monkeypatch, 2 * local - 2) == "chunked"
    assert choose(model, length, monkeypatch, 2 * full, num_clips=2) != "full"
    model.config.position_embedding_type = "rel_pos_local_attn"
    model.config.attention_context = [4, 4]
    assert choose(model, length, monkeypatch, 2 * local) == "full"
    assert choose(model, length, monkeypatch, 2 * local - 2) == "chunked"


def test_a_model_that_cannot_be_cut_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pooling = {"reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 4}
    assert choose(build_model("ctc", **pooling), MINUTE, monkeypatch, free_bytes=0) == "local"
    assert choose(build_model("ctc", **pooling, **LOCAL), MINUTE, monkeypatch, free_bytes=0) == "full"


def test_a_strategy_that_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("ctc")
    for strategy in ("full", "local", "chunked"):
        assert choose(model, 600 * MINUTE, monkeypatch, free_bytes=0, strategy=strategy) == strategy
        assert choose(model, MINUTE, monkeypatch, free_bytes=1e15, strategy=strategy) == strategy
    chosen = choose_strategy(model, MINUTE, FRAME_SECONDS, ChunkOptions("chunked"))
    assert chosen.model is model
    assert chosen.plan is not None
    assert chosen.plan.window_frames == int(DEFAULT_CHUNK_SECONDS / FRAME_SECONDS)
    by_length = choose_strategy(model, MINUTE, FRAME_SECONDS, ChunkOptions(chunk_length_s=8.0))
    assert by_length.name == "chunked"
    assert by_length.plan is not None
    assert by_length.plan.window_frames == 100
    assert choose_strategy(model, MINUTE, FRAME_SECONDS, ChunkOptions("full")).plan is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best"}, "strategy='best' is not supported; expected one of"),
        ({"strategy": "full", "chunk_length_s": 8.0}, "chunk_length_s=8.0 is not supported with strategy='full'"),
        ({"strategy": "local", "chunk_length_s": 8.0}, "chunk_length_s=8.0 is not supported with strategy='local'"),
        ({"strategy": "full", "stride_length_s": 1.0}, "stride_length_s=1.0 needs chunk_length_s"),
        ({"strategy": "chunked", "stride_length_s": 15.0}, "chunk_length_s=30.0 is not supported with stride"),
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
            chosen = choose_strategy(model, 2399, FRAME_SECONDS, ChunkOptions(strategy))
            found = transcribe_features(chosen.model, [clip])
            if not torch.equal(found.log_probs, expected[strategy].log_probs):
                errors.append(strategy)

    threads = [threading.Thread(target=run, args=(strategy,)) for strategy in ("full", "local")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# Memory


SHAPES = {
    "small": {"num_mel_bins": 80, "hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4},
    "medium": {"num_mel_bins": 80, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    "large": {"num_mel_bins": 128, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8},
}


@pytest.mark.parametrize(
    ("shape", "is_local", "seconds", "measured_megabytes"),
    [
        ("small", False, 300, 188),
        ("small", False, 1200, 285),
        ("small", True, 1800, 304),
        ("medium", False, 600, 495),
        ("medium", False, 1200, 688),
        ("medium", True, 1200, 790),
        ("large", False, 150, 316),
        ("large", False, 1200, 987),
        ("large", True, 600, 846),
        ("large", True, 1200, 1196),
    ],
)
def test_the_estimate_is_what_one_pass_was_measured_to_take(
    shape: str, is_local: bool, seconds: int, measured_megabytes: int
) -> None:
    """Growth of resident memory in a process of its own, encoders of two blocks in float32."""
    config = FastConformerCTCConfig(**SHAPES[shape], vocab_size=BLANK + 1)
    estimate = estimate_one_pass_bytes(config, 100 * seconds, is_local=is_local)
    assert 1.0 <= estimate / (measured_megabytes * 1e6) < 3.0


def test_the_estimate_grows_with_length_and_width() -> None:
    config = build_config("ctc")
    estimates = [estimate_one_pass_bytes(config, mel_length) for mel_length in (1, 1000, 10**5, 10**6)]
    assert estimates == sorted(estimates)
    assert estimate_one_pass_bytes(config, 10**5, 2) < estimates[2]
    assert estimate_one_pass_bytes(config, 10**6, is_local=True) < estimates[3]
    assert estimate_one_pass_bytes(config, 10**5, device_type="cuda") > estimates[2]


CPU = torch.device("cpu")


def test_free_memory_is_what_the_system_and_its_groups_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, used, most = (tmp_path / name for name in ("meminfo", "used", "most"))
    monkeypatch.setattr(module, "MEMORY_INFO", info)
    monkeypatch.setattr(module, "CONTROL_GROUPS", ((used, most),))
    info.write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\n")
    assert available_bytes(CPU) == 8000 * 1024
    used.write_text("1000\n")
    most.write_text("max\n")
    assert available_bytes(CPU) == 8000 * 1024
    most.write_text("5000\n")
    assert available_bytes(CPU) == 4000
    used.write_text("6000\n")
    assert available_bytes(CPU) == 0


def test_a_system_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_INFO", tmp_path / "nothing")
    monkeypatch.setattr(module, "CONTROL_GROUPS", ())
    monkeypatch.setattr(module.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__, raising=False)
    assert available_bytes(CPU) == 2048000

    def fail(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(module.os, "sysconf", fail, raising=False)
    assert available_bytes(CPU) == module.UNKNOWN_MEMORY_BYTES


@pytest.mark.gpu
def test_free_memory_of_a_gpu() -> None:
    device = torch.device("cuda")
    before = available_bytes(device)
    held = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert before - available_bytes(device) >= held.numel() // 2
    del held
    assert available_bytes(device) >= before - 2**26
