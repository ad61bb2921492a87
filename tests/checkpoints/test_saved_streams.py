"""Live streams in files: saved in the middle and loaded they go on as if nothing had been, and damage is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import build_model
from safetensors.torch import load_file, save_file

from transformers_fastconformer import (
    FastConformerEncoderCache,
    StreamingSchedule,
    load_encoder_cache,
    save_encoder_cache,
)

STREAMING: dict[str, Any] = {
    "causal_downsampling": True,
    "conv_context": [4, 0],
    "conv_norm_type": "layer_norm",
    "attention_context_style": "chunked_limited",
    "attention_context": [4, 1],
}


@pytest.fixture
def encoder() -> Any:
    return build_model("encoder", **STREAMING)


@torch.no_grad()
def step(encoder: Any, cache: FastConformerEncoderCache, seed: int) -> torch.Tensor:
    features = torch.randn(2, cache.next_mel_frames(0), 8, generator=torch.Generator().manual_seed(seed))
    return encoder(features, cache=cache).last_hidden_state


def test_streams_go_on_after_a_file(encoder: Any, tmp_path: Path):
    schedule = StreamingSchedule.of(encoder.config, chunk_frames=4, is_exact=True)
    cache = FastConformerEncoderCache.for_model(encoder, schedule, 2)
    for seed in range(3):
        step(encoder, cache, seed)
    save_encoder_cache(cache, tmp_path / "streams.safetensors")
    with torch.inference_mode():
        loaded = load_encoder_cache(tmp_path / "streams.safetensors", encoder.config)
    assert loaded.schedule == schedule
    assert loaded.counts == cache.counts
    for seed in range(3, 6):
        assert torch.equal(step(encoder, loaded, seed), step(encoder, cache, seed))


def test_files_that_are_none_of_such_streams_are_refused_by_name(encoder: Any, tmp_path: Path):
    cache = FastConformerEncoderCache.for_model(encoder, StreamingSchedule.of(encoder.config), 2)
    path = tmp_path / "streams.safetensors"
    save_encoder_cache(cache, path)
    tensors = load_file(path)
    other = build_model("encoder", **{**STREAMING, "attention_context": [6, 2]})
    wide = build_model("encoder", **STREAMING, hidden_size=32)
    for config, match in ((other.config, r"attention_context=\[4, 1\]"), (wide.config, "shape of keys")):
        with pytest.raises(ValueError, match=match) as error:
            load_encoder_cache(path, config)
        assert "streams.safetensors" in str(error.value)
    plain, cut, text = tmp_path / "plain.safetensors", tmp_path / "cut.safetensors", tmp_path / "text.safetensors"
    save_file(tensors, plain)
    cut.write_bytes(path.read_bytes()[:-20])
    text.write_text("nothing of the kind")
    for broken in (plain, cut, text, tmp_path / "missing.safetensors"):
        with pytest.raises(ValueError, match=broken.name):
            load_encoder_cache(broken, encoder.config)
    save_file(tensors, plain, metadata={"format": "fastconformer_encoder_cache", "version": "1", "schedule": "[]"})
    with pytest.raises(ValueError, match=r"plain\.safetensors"):
        load_encoder_cache(plain, encoder.config)
