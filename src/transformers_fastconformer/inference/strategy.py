"""
Strategies for passing a clip through the encoder: whole, whole with local attention, or in chunks.

With `"auto"` the length of the clip and the free memory decide.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..configuration_fastconformer import FastConformerConfig
from ..modeling.full_attention import choose_block_frames
from ..modeling.local_attention import GROUP_FRAMES
from ..modeling.masking import resolve_context
from ..modeling.recognizer import FastConformerRecognizer
from .chunk_plan import WindowPlan, plan_windows
from .options import ChunkOptions

# Default context on each side of a window: a share of it, but at least as much as a word needs, as long as a third is
# left in the middle. With less, words at the borders are lost (see `docs/usage.md` for the figures).
DEFAULT_STRIDE_SHARE = 1 / 6
MIN_DEFAULT_STRIDE_SECONDS = 0.8
MAX_DEFAULT_STRIDE_SHARE = 1 / 3
# Encoder frames on each side that "local" lets a model with full attention see: the values that the authors of
# published checkpoints give for long audio.
LOCAL_CONTEXT = (128, 128)

# Longest clip in one pass that the authors of published checkpoints give, with full and with local attention:
# 24 minutes and 3 hours.
MAX_FULL_SECONDS = 24 * 60.0
MAX_LOCAL_SECONDS = 3 * 3600.0
# Largest share of the memory that is free before a clip goes through the encoder that "auto" takes.
MAX_MEMORY_SHARE = 0.5
DEFAULT_CHUNK_SECONDS = 30.0
# Taken as free memory where the system does not say how much is free.
UNKNOWN_MEMORY_BYTES = 4 * 2**30

MEMORY_INFO = Path("/proc/meminfo")
# Limits of a container: version 2 of control groups, then version 1. The memory in use, and the limit.
CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.max")),
    (
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ),
)

# Memory that one pass takes at once, an upper bound that is fitted to encoders of three widths and clips of 2.5 to 30
# minutes: copies of the features, of the attention scores of one block, and of each encoder frame, as wide as the
# blocks and as their feed-forward modules; and a share that is the same for every clip.
FEATURE_COPIES = 4
SCORE_COPIES = 6
FRAME_COPIES = 12
FEED_FORWARD_COPIES = 1
SPARE_BYTES = 128 * 2**20
# Keys that a block of queries sees in a window of `LOCAL_CONTEXT`.
LOCAL_BAND_FRAMES = 384


class ChosenStrategy(NamedTuple):
    """
    Strategy that was chosen for a clip, with the model and the plan that carry it out.

    Args:
        name: `"full"`, `"local"` or `"chunked"`.
        model: The model to use: the one given, or one that shares its parameters.
        plan: Plan by which the clip is cut; None: it is not cut.
    """

    name: str
    model: FastConformerRecognizer
    plan: WindowPlan | None


def check_strategy(config: FastConformerConfig, frame_seconds: float, chunking: ChunkOptions) -> None:
    """
    Check that a model can carry out a strategy, before anything is computed.

    Args:
        config: The model's configuration.
        frame_seconds: Seconds from one encoder frame to the next, by the processor.
        chunking: The strategy, the lengths of chunks and of their context.

    Raises:
        ValueError: for a strategy or lengths that the model cannot carry out.
    """
    plan_chunks(config, frame_seconds, chunking)
    if chunking.strategy == "local" and not config.has_relative_positions:
        raise ValueError(
            "strategy='local' is not supported for a model with "
            f"position_embedding_type={config.position_embedding_type!r}; expected 'auto', 'full' or 'chunked'."
        )


def choose_strategy(
    model: FastConformerRecognizer,
    mel_length: int,
    frame_seconds: float,
    chunking: ChunkOptions,
    num_clips: int = 1,
) -> ChosenStrategy:
    """
    Choose the strategy for a clip.

    `"auto"` is `"chunked"` where a length of chunks is given. Else it is `"full"` for a clip of up to 24 minutes, or
    of any length where the model's attention is limited, if it fits into half of the free memory; `"local"` for a clip
    of up to 3 hours that fits with local attention, and otherwise `"chunked"`.

    Args:
        model: A model with a head.
        mel_length: Mel frames of the clip.
        frame_seconds: Seconds from one encoder frame to the next.
        chunking: The options that the caller gave.
        num_clips: Number of clips of that length that go through the encoder together.

    Raises:
        ValueError: for a strategy that `check_strategy` refuses.
    """
    config: Any = model.config
    check_strategy(config, frame_seconds, chunking)
    name = chunking.strategy
    if name == "auto":
        name = "chunked" if chunking.chunk_length_s else _choose(model, mel_length, frame_seconds, num_clips)
    if name == "chunked":
        plan = plan_chunks(config, frame_seconds, replace(chunking, strategy="chunked"))
        return ChosenStrategy(name, model, plan)
    return ChosenStrategy(name, share_with_local_attention(model) if name == "local" else model, None)


def _choose(model: FastConformerRecognizer, mel_length: int, frame_seconds: float, num_clips: int) -> str:
    config: Any = model.config
    seconds = config.count_encoder_frames(mel_length) * frame_seconds
    bytes_per_value = model.dtype.itemsize
    max_bytes = MAX_MEMORY_SHARE * available_bytes(model.device) / num_clips
    is_limited = not sees_all(config)

    def fits(is_local: bool) -> bool:
        needed = estimate_one_pass_bytes(config, mel_length, bytes_per_value, is_local, model.device.type)
        return needed <= max_bytes

    if (is_limited or seconds <= MAX_FULL_SECONDS) and fits(is_limited):
        return "full"
    can_be_local = not is_limited and config.has_relative_positions
    if can_be_local and seconds <= MAX_LOCAL_SECONDS and fits(is_local=True):
        return "local"
    try:
        plan_chunks(config, frame_seconds, ChunkOptions("chunked"))
    except ValueError:  # of models whose clips cannot be cut
        return "local" if can_be_local else "full"
    return "chunked"


def plan_chunks(config: FastConformerConfig, frame_seconds: float, chunking: ChunkOptions) -> WindowPlan | None:
    """
    Plan the windows into which clips are cut for a model.

    Args:
        config: The model's configuration.
        frame_seconds: Seconds from one encoder frame to the next, by the processor.
        chunking: Lengths of chunks and of their context.

    Returns:
        The plan, or None for whole clips.

    Raises:
        ValueError: for a chunk that is only context, and for a model whose clips cannot be cut.
    """
    chunk_length_s = chunking.chunk_length_s
    if not chunk_length_s:
        if chunking.strategy != "chunked":
            return None
        chunk_length_s = DEFAULT_CHUNK_SECONDS
    if not config.reduction.is_proportional:
        # A window would be masked in its middle.
        raise ValueError(
            f"chunk_length_s={chunk_length_s} is not supported for a model with "
            f"reduction_type={config.reduction_type!r} and reduction_factor={config.reduction_factor}; expected None."
        )
    default_seconds = min(
        max(chunk_length_s * DEFAULT_STRIDE_SHARE, MIN_DEFAULT_STRIDE_SECONDS),
        chunk_length_s * MAX_DEFAULT_STRIDE_SHARE,
    )
    left_seconds, right_seconds = (default_seconds if stride is None else stride for stride in chunking.strides)
    context = resolve_context(config.attention_context_style, config.attention_context)
    align_frames = 1 if config.has_local_attention else context.chunk_frames
    return plan_windows(chunk_length_s, left_seconds, right_seconds, frame_seconds, align_frames)


def sees_all(config: FastConformerConfig) -> bool:
    """Tell whether an encoder frame depends on all frames before it in its window."""
    if config.has_local_attention:
        return False
    return resolve_context(config.attention_context_style, config.attention_context).left_frames is None


def share_with_local_attention(model: FastConformerRecognizer) -> FastConformerRecognizer:
    """
    Make a model whose attention is a sliding window of `LOCAL_CONTEXT` out of one with full attention.

    All parameters and buffers are shared and the given model does not change, so that others may use it meanwhile. A
    model whose attention is limited already is returned as it is.

    Raises:
        ValueError: for a model with absolute positions, whose attention cannot be limited.
    """
    config: Any = model.config
    if not sees_all(config):
        return model
    return model.with_attention_context(
        LOCAL_CONTEXT, attention_context_style="regular", position_embedding_type="rel_pos_local_attn"
    )


def estimate_one_pass_bytes(
    config: FastConformerConfig,
    mel_length: int,
    bytes_per_value: int = 4,
    is_local: bool = False,
    device_type: str = "cpu",
) -> int:
    """
    Estimate the memory that the encoder takes for one whole clip, without its weights.

    Args:
        config: The model's configuration.
        mel_length: Mel frames of the clip.
        bytes_per_value: Bytes of a value of the model's type.
        is_local: True where attention is limited, so that a frame sees few others.
        device_type: Type of the model's device; a GPU works on larger blocks.
    """
    num_frames = max(config.subsampling.count_rows(mel_length), 1)
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
    """Free memory of a device; for a CPU it is what the system and a container's limit leave."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that the allocator keeps for reuse is free for us.
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
    try:  # outside Linux only the total memory is known at best, not the free memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _free_of_group(files: tuple[Path, Path]) -> int | None:
    try:
        used, most = (path.read_text(encoding="ascii").strip() for path in files)
        return max(int(most) - int(used), 0)
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None
