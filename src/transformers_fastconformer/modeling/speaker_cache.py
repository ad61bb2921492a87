"""
What a streaming Sortformer remembers: a cache of frames of each speaker, and a queue of the latest frames.

The frames are those between subsampling and blocks (NeMo 3.0's `SortformerModules`; Medennikov et al., 2025,
arXiv:2507.18446). The model sees cache, queue and chunk at once, so that it knows the speakers again. Frames that
leave the queue go to the cache; when that is too long, the frames are kept by which speakers are heard best: choices
that are discrete, so that the scores are computed in float32 and in NeMo's order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..configuration_diarization import FastConformerDiarizationConfig
from ..validation import require, require_choice, require_count

# Frames (80 ms): chunk, right context, queue, update; the latencies are those of chunk and right context together.
PRESETS: dict[str, tuple[int, int, int, int]] = {
    "very_high": (340, 40, 40, 300),  # 30.4 s
    "high": (124, 1, 124, 124),  # 10 s
    "low": (6, 7, 188, 144),  # 1.04 s
    "very_low": (3, 1, 188, 144),  # 0.32 s
}
LEFT_FRAMES, CACHE_FRAMES = 1, 188  # of all presets
# What a boosted score gains, in halves of a probability.
HALF = 0.5
SPEECH_PROBABILITY = 0.5


@dataclass(frozen=True)
class SpeakerStreamOptions:
    """
    The way through a recording, in encoder frames.

    Args:
        chunk_frames: New frames of a step.
        left_context_frames: Frames before them that only their own are computed with.
        right_context_frames: Frames after them, for which a step waits.
        queue_frames: Latest frames that are kept as they are.
        update_frames: Frames that leave the queue at a time.
        cache_frames: Frames in the cache of speakers.

    Raises:
        ValueError: for a number that is not accepted.
    """

    chunk_frames: int = 188
    left_context_frames: int = 1
    right_context_frames: int = 1
    queue_frames: int = 0
    update_frames: int = 188
    cache_frames: int = 188

    def __post_init__(self) -> None:
        for name in ("chunk_frames", "update_frames", "cache_frames"):
            require_count(name, getattr(self, name))
        for name in ("left_context_frames", "right_context_frames", "queue_frames"):
            require_count(name, getattr(self, name), minimum=0)

    @classmethod
    def of(cls, config: FastConformerDiarizationConfig, latency: str | None = None) -> SpeakerStreamOptions:
        """
        The options of a checkpoint, or those of a latency.

        Args:
            config: The checkpoint's configuration.
            latency: `"very_high"` (30.4 s at 80 ms a frame), `"high"` (10 s), `"low"` (1.04 s) or `"very_low"`
                (0.32 s); None: what the checkpoint says.

        Raises:
            ValueError: for another latency, and for a cache that is too short for the speakers.
        """
        require_choice("latency", latency, (None, *PRESETS))
        if latency is None:
            options = cls(**config.speaker_stream())
        else:
            chunk, right, queue, update = PRESETS[latency]
            options = cls(chunk, LEFT_FRAMES, right, queue, update, CACHE_FRAMES)
        options.check_config(config)
        return options

    def check_config(self, config: FastConformerDiarizationConfig) -> None:
        """Raise a `ValueError` for a cache that has no room for the speakers of a checkpoint."""
        least = (1 + config.cache_silence_frames) * config.num_speakers
        require(self.cache_frames >= least, "cache_frames", self.cache_frames, f"{least} or more")


@dataclass(frozen=True)
class SpeakerCache:
    """
    The state of one recording between two steps; it is never changed.

    Args:
        cache: (frames, hidden_size), at most `cache_frames`.
        cache_probabilities: (frames, speakers), float32; None before the cache was full for the first time.
        queue: (frames, hidden_size), at most `queue_frames`.
        silence: (hidden_size,), mean of the frames of silence that left the queue.
        num_silent: How many they were.
        kept_frames: Places in the cache before it was shortened the last time that its frames come from, -1 for
            silence, (cache_frames,); None before that. For tests and for those who want to look.
    """

    cache: torch.Tensor
    cache_probabilities: torch.Tensor | None
    queue: torch.Tensor
    silence: torch.Tensor
    num_silent: int = 0
    kept_frames: torch.Tensor | None = None

    @classmethod
    def empty(cls, config: FastConformerDiarizationConfig, dtype: torch.dtype, device: torch.device) -> SpeakerCache:
        """The state before a recording."""
        nothing = torch.zeros(0, config.hidden_size, dtype=dtype, device=device)
        return cls(nothing, None, nothing, torch.zeros(config.hidden_size, dtype=dtype, device=device))

    @property
    def num_frames(self) -> int:
        """Frames of cache and queue, which stand before those of a chunk."""
        return self.cache.shape[0] + self.queue.shape[0]

    def to(self, device: torch.device | str) -> SpeakerCache:
        """The state on a device."""
        names = ("cache", "cache_probabilities", "queue", "silence", "kept_frames")
        tensors = {name: getattr(self, name) for name in names}
        moved: Any = {name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **moved)


def advance(
    state: SpeakerCache,
    chunk: torch.Tensor,
    probabilities: torch.Tensor,
    config: FastConformerDiarizationConfig,
    options: SpeakerStreamOptions,
) -> SpeakerCache:
    """
    The state after a chunk.

    Args:
        state: The state before it.
        chunk: (frames, hidden_size), its own frames, without context.
        probabilities: (frames, speakers), of cache, queue and chunk.
        config: The model's.
        options: How frames are kept.
    """
    probabilities = probabilities.float()
    num_cached, num_queued, num_new = state.cache.shape[0], state.queue.shape[0], chunk.shape[0]
    queue = torch.cat([state.queue, chunk])
    if num_queued + num_new <= options.queue_frames:
        return replace(state, queue=queue)
    leaving = max(options.update_frames, num_new - options.queue_frames + num_queued)
    leaving = min(leaving, num_queued + num_new)
    frames, heard = queue[:leaving], probabilities[num_cached : num_cached + leaving]
    silence, num_silent = _add_silence(state, frames, heard, config.cache_silence_threshold)
    cache, cached = torch.cat([state.cache, frames]), None
    if state.cache_probabilities is not None:
        cached = torch.cat([state.cache_probabilities, heard])
    kept = state.kept_frames
    if cache.shape[0] > options.cache_frames:
        if cached is None:
            cached = torch.cat([probabilities[:num_cached], heard])
        kept = choose_frames(cached, config, options.cache_frames)
        is_silence = kept < 0
        places = kept.clamp(min=0)
        cache = torch.where(is_silence[:, None], silence, cache[places])
        cached = cached[places].masked_fill(is_silence[:, None], 0.0)
    return SpeakerCache(cache, cached, queue[leaving:], silence, num_silent, kept)


def _add_silence(
    state: SpeakerCache, frames: torch.Tensor, probabilities: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, int]:
    """Mean and number of the frames of silence, with new frames."""
    is_silent = probabilities.sum(dim=1) < threshold
    count = int(is_silent.sum())
    if count == 0:
        return state.silence, state.num_silent
    total = state.silence * state.num_silent + (frames * is_silent[:, None]).sum(dim=0)
    return total / (state.num_silent + count), state.num_silent + count


def choose_frames(
    probabilities: torch.Tensor, config: FastConformerDiarizationConfig, cache_frames: int
) -> torch.Tensor:
    """
    Choose the frames that stay in the cache: by speaker, and in order of time within each.

    Args:
        probabilities: (frames, speakers), float32, of more than `cache_frames` frames.
        config: The model's.
        cache_frames: How many stay.

    Returns:
        (cache_frames,), places of frames; -1 for silence.
    """
    num_frames, num_speakers = probabilities.shape
    room = cache_frames // num_speakers - config.cache_silence_frames
    scores = _score(probabilities, config.cache_min_probability)
    is_speech = probabilities > SPEECH_PROBABILITY
    scores = scores.masked_fill(~is_speech, -math.inf)
    is_alone = scores > 0
    has_enough = is_alone.sum(dim=0) >= math.floor(room * config.cache_positive_share)
    scores = scores.masked_fill(~is_alone & is_speech & has_enough, -math.inf)
    scores[cache_frames:] += config.cache_latest_score
    for share, factor in ((config.cache_strong_share, 2), (config.cache_weak_share, 1)):
        count = min(math.floor(room * share), num_frames)
        best = scores.topk(count, dim=0, sorted=False).indices  # (count, speakers)
        scores.scatter_add_(0, best, torch.full_like(best, -factor * math.log(HALF), dtype=scores.dtype))
    silent = scores.new_full((config.cache_silence_frames, num_speakers), math.inf)
    scores = torch.cat([scores, silent])  # (frames and silence, speakers)
    num_rows = scores.shape[0]
    best_scores, places = scores.T.reshape(-1).topk(cache_frames, sorted=False)
    beyond = num_rows * num_speakers  # behind all places, so that frames without a speaker come last
    places = torch.where(best_scores == -math.inf, beyond, places).sort().values
    is_silence = (places == beyond) | (places % num_rows >= num_frames)
    return torch.where(is_silence, -1, places % num_rows)


def _score(probabilities: torch.Tensor, least: float) -> torch.Tensor:
    """Scores that are high where a speaker is heard surely and alone, (frames, speakers)."""
    heard = probabilities.clamp(min=least).log()
    silent = (1.0 - probabilities).clamp(min=least).log()
    return heard - silent + silent.sum(dim=1, keepdim=True) - math.log(HALF)
