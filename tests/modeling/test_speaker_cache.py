"""The cache of speakers: which frames stay, silence, the queue, and options."""

from __future__ import annotations

import math

import pytest
import torch
from diarizers import SHAPE

from transformers_fastconformer import FastConformerDiarizationConfig, SpeakerCache, SpeakerStreamOptions
from transformers_fastconformer.modeling.speaker_cache import advance, choose_frames

CONFIG = FastConformerDiarizationConfig(**SHAPE)


def numbered(first: int, count: int) -> torch.Tensor:
    """Frames that hold their number."""
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(-1, CONFIG.hidden_size)


def test_frames_of_each_speaker_stay_in_order_with_silence_after_them() -> None:
    probabilities = torch.full((24, 3), 0.02)
    probabilities[0:10, 0] = 0.95
    probabilities[10:18, 2] = 0.99
    probabilities[18:24, 2] = 0.9  # less sure than those before
    kept = choose_frames(probabilities, CONFIG, 15).tolist()
    # Room for 5 frames of each, one of them silence; the second speaker says nothing.
    assert len(kept) == 15
    assert kept.count(-1) >= 3
    first = [place for place in kept if 0 <= place < 10]
    second = [place for place in kept if place >= 10]
    assert first == sorted(first)
    assert second == sorted(second)
    assert kept.index(second[0]) > kept.index(first[-1])
    assert len(first) >= 3
    assert len(second) >= 3


def test_frames_of_several_speakers_go_first() -> None:
    probabilities = torch.full((20, 3), 0.02)
    probabilities[:10, 0] = 0.9
    probabilities[10:, 0] = 0.9
    probabilities[10:, 1] = 0.9  # overlapped
    kept = choose_frames(probabilities, CONFIG, 15)
    alone = [place for place in kept.tolist() if 0 <= place < 10]
    assert len(alone) >= 4


def test_silence_is_the_mean_of_silent_frames_and_fills_the_cache() -> None:
    options = SpeakerStreamOptions(4, 0, 0, 0, 4, 12)
    state = SpeakerCache.empty(CONFIG, torch.float32, torch.device("cpu"))
    speech = torch.tensor([0.9, 0.01, 0.01])
    quiet = torch.full((3,), 0.01)
    heard = torch.zeros(0, 3)
    for step in range(4):
        own = torch.stack([quiet, quiet, speech, speech])
        chunk = numbered(4 * step, 4)
        probabilities = torch.cat([heard[: state.num_frames], own])
        state = advance(state, chunk, probabilities, CONFIG, options)
        heard = torch.cat([heard, own])
    silent = [0, 1, 4, 5, 8, 9, 12, 13]
    assert state.num_silent == len(silent)
    assert state.silence[0] == pytest.approx(sum(silent) / len(silent))
    assert state.cache.shape == (12, CONFIG.hidden_size)
    assert state.kept_frames is not None
    is_silence = state.kept_frames < 0
    assert torch.equal(state.cache[is_silence], state.silence.expand(int(is_silence.sum()), -1))
    assert state.cache_probabilities is not None
    assert not state.cache_probabilities[is_silence].any()


def test_the_queue_fills_before_frames_leave_it() -> None:
    options = SpeakerStreamOptions(3, 0, 0, 5, 4, 15)
    state = SpeakerCache.empty(CONFIG, torch.float32, torch.device("cpu"))
    sizes = []
    for step in range(5):
        probabilities = torch.full((state.num_frames + 3, 3), 0.3)
        state = advance(state, numbered(3 * step, 3), probabilities, CONFIG, options)
        sizes.append((state.cache.shape[0], state.queue.shape[0]))
    assert sizes == [(0, 3), (4, 2), (4, 5), (8, 4), (12, 3)]
    assert state.cache[:, 0].tolist() == list(range(12))
    assert state.queue[:, 0].tolist() == [12, 13, 14]


def test_options_by_latency_and_of_the_checkpoint() -> None:
    config = FastConformerDiarizationConfig()
    assert SpeakerStreamOptions.of(config) == SpeakerStreamOptions()
    low = SpeakerStreamOptions.of(config, "low")
    assert math.isclose((low.chunk_frames + low.right_context_frames) * 0.08, 1.04)
    with pytest.raises(ValueError, match=r"latency='fast' is not supported; expected one of .*very_low"):
        SpeakerStreamOptions.of(config, "fast")
    with pytest.raises(ValueError, match="cache_frames=5 is not supported; expected 6 or more"):
        SpeakerStreamOptions(cache_frames=5).check_config(CONFIG)
    with pytest.raises(ValueError, match="chunk_frames=0 is not supported"):
        SpeakerStreamOptions(chunk_frames=0)


def test_a_state_moves() -> None:
    state = SpeakerCache.empty(CONFIG, torch.float32, torch.device("cpu"))
    moved = state.to("meta")
    assert moved.cache.is_meta
    assert moved.cache_probabilities is None
