"""
How a clip goes through the encoder: whole, whole with local attention, or in chunks; where nobody says, by its length
and the memory that there is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from ..configuration_fastconformer import FastConformerConfig
from ..modeling.attention import choose_block_frames
from ..modeling.local_attention import GROUP_FRAMES
from .chunk_plan import WindowPlan
from .chunked import count_encoder_frames, plan_chunks, sees_all, share_with_local_attention

STRATEGIES = ("auto", "full", "local", "chunked")
# What the authors of published checkpoints with full attention give as the longest clip in one pass, and with local
# attention: 24 minutes and 3 hours.
MOST_FULL_SECONDS = 24 * 60.0
MOST_LOCAL_SECONDS = 3 * 3600.0
# Of the memory that is free when a clip is about to go through the encoder, "auto" takes no more than that.
MOST_MEMORY_SHARE = 0.5
DEFAULT_CHUNK_SECONDS = 30.0
# Where the system does not say how much is free.
UNKNOWN_MEMORY_BYTES = 4 * 2**30

MEMORY_INFO = Path("/proc/meminfo")
# Limits of a container: version 2 of control groups, then version 1. What is used, and the most that may be.
CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.max")),
    (
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ),
)

# What one pass takes at once, fitted from above to encoders of three widths and clips of 2.5 to 30 minutes: copies of
# the features, of the attention scores of one block, and of each encoder frame, as wide as the blocks and as their
# feed-forward modules; and what is the same for every clip.
FEATURE_COPIES = 4
SCORE_COPIES = 6
FRAME_COPIES = 12
FEED_FORWARD_COPIES = 1
SPARE_BYTES = 128 * 2**20
# Keys that a block of queries sees in a window of `LOCAL_CONTEXT`.
LOCAL_BAND_FRAMES = 384


class ChosenStrategy(NamedTuple):
    """
    What a strategy comes to for one clip.

    Args:
        name: `"full"`, `"local"` or `"chunked"`.
        model: The model to use: the one given, or one that shares its parameters.
        plan: How the clip is cut; None: not at all.
    """

    name: str
    model: PreTrainedModel
    plan: WindowPlan | None


def check_strategy(
    config: FastConformerConfig,
    frame_seconds: float,
    strategy: str,
    chunk_length_s: float | None = None,
    stride_length_s: float | Sequence[float] | None = None,
) -> None:
    """
    Raise a `ValueError` for a strategy that there is not or that contradicts the lengths of chunks, before anything is
    computed; the arguments are those of `choose_strategy`.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is not supported; expected one of {STRATEGIES}.")
    if chunk_length_s and strategy not in ("auto", "chunked"):
        raise ValueError(
            f"chunk_length_s={chunk_length_s} is not supported with strategy={strategy!r}; expected 'chunked'."
        )
    if strategy == "chunked":
        chunk_length_s = chunk_length_s or DEFAULT_CHUNK_SECONDS
    plan_chunks(config, frame_seconds, chunk_length_s, stride_length_s)
    if strategy == "local" and config.position_embedding_type == "abs_pos":
        raise ValueError(
            "strategy='local' is not supported for a model with position_embedding_type='abs_pos'; expected 'auto', "
            "'full' or 'chunked'."
        )


def choose_strategy(
    model: PreTrainedModel,
    mel_length: int,
    frame_seconds: float,
    strategy: str = "auto",
    chunk_length_s: float | None = None,
    stride_length_s: float | Sequence[float] | None = None,
    num_clips: int = 1,
) -> ChosenStrategy:
    """
    What is done with a clip.

    `"auto"` is `"chunked"` where a length of chunks is given. Else it is `"full"` for a clip of up to 24 minutes, or
    of any length where the model's attention is limited, that fits into half of the memory that is free; `"local"` for
    one of up to 3 hours that does so, and otherwise `"chunked"`.

    Args:
        model: A model with a head.
        mel_length: Mel frames of the clip.
        frame_seconds: Seconds from one encoder frame to the next.
        strategy: One of `STRATEGIES`.
        chunk_length_s, stride_length_s: As in `plan_chunks`; without a length chunks have 30 s.
        num_clips: How many clips of that length go through the encoder together.

    Raises:
        ValueError: as `check_strategy`.
    """
    config: Any = model.config
    check_strategy(config, frame_seconds, strategy, chunk_length_s, stride_length_s)
    if strategy == "auto":
        strategy = "chunked" if chunk_length_s else _choose(model, mel_length, frame_seconds, num_clips)
    if strategy == "chunked":
        plan = plan_chunks(config, frame_seconds, chunk_length_s or DEFAULT_CHUNK_SECONDS, stride_length_s)
        return ChosenStrategy(strategy, model, plan)
    return ChosenStrategy(strategy, share_with_local_attention(model) if strategy == "local" else model, None)


def _choose(model: PreTrainedModel, mel_length: int, frame_seconds: float, num_clips: int) -> str:
    config: Any = model.config
    seconds = count_encoder_frames(config, mel_length) * frame_seconds
    bytes_per_value = model.dtype.itemsize
    most_bytes = MOST_MEMORY_SHARE * available_bytes(model.device) / num_clips
    is_limited = not sees_all(config)

    def fits(is_local: bool) -> bool:
        needed = estimate_one_pass_bytes(config, mel_length, bytes_per_value, is_local, model.device.type)
        return needed <= most_bytes

    if (is_limited or seconds <= MOST_FULL_SECONDS) and fits(is_limited):
        return "full"
    can_be_local = not is_limited and config.position_embedding_type != "abs_pos"
    if can_be_local and seconds <= MOST_LOCAL_SECONDS and fits(is_local=True):
        return "local"
    try:
        plan_chunks(config, frame_seconds, DEFAULT_CHUNK_SECONDS)
    except ValueError:  # of the models that cannot be cut
        return "local" if can_be_local else "full"
    return "chunked"


def estimate_one_pass_bytes(
    config: FastConformerConfig,
    mel_length: int,
    bytes_per_value: int = 4,
    is_local: bool = False,
    device_type: str = "cpu",
) -> int:
    """
    Memory that the encoder takes for one clip at once, beside its weights.

    Args:
        config: The model's.
        mel_length: Mel frames of the clip.
        bytes_per_value: Of the model's type.
        is_local: Whether attention is limited, so that a frame sees few others.
        device_type: Where the model is; a GPU works on larger blocks.
    """
    factor = config.subsampling_factor if config.subsampling_type != "none" else 1
    num_frames = max(mel_length // factor, 1)
    num_heads = config.num_attention_heads
    if is_local:
        scores = num_heads * min(num_frames, GROUP_FRAMES) * min(num_frames, LOCAL_BAND_FRAMES)
    else:
        block_frames = choose_block_frames(num_heads * num_frames, None, device_type)
        scores = num_heads * num_frames * min(block_frames, num_frames)
    widths = FRAME_COPIES * config.hidden_size + FEED_FORWARD_COPIES * config.intermediate_size
    features = FEATURE_COPIES * 4 * mel_length * config.num_mel_bins
    return SPARE_BYTES + features + bytes_per_value * (SCORE_COPIES * scores + widths * num_frames)


def available_bytes(device: torch.device) -> int:
    """Memory of a device that is free: of a CPU what the system and a container's limit leave."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What the allocator keeps for reuse is free to us.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    found = [value for value in (_free_of_system(), *map(_free_of_group, CONTROL_GROUPS)) if value is not None]
    return min(found, default=UNKNOWN_MEMORY_BYTES)


def _free_of_system() -> int | None:
    try:
        for line in MEMORY_INFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:  # elsewhere than on Linux what is there is known at best, not what is free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _free_of_group(files: tuple[Path, Path]) -> int | None:
    try:
        used, most = (path.read_text(encoding="ascii").strip() for path in files)
        return max(int(most) - int(used), 0)
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None
