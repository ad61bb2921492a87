"""
Estimates of what a clip costs the encoder, by the shape of the model: memory of one pass, and work of a strategy.

Work is counted in floating-point operations as good as those of the linear layers, so that only ratios of two
estimates mean something. `benchmarks/bench_strategies.py` sets them against measured times.
"""

from __future__ import annotations

from typing import NamedTuple

from ..configuration_fastconformer import FastConformerConfig
from ..modeling.full_attention import choose_block_frames
from ..modeling.local_attention import GROUP_FRAMES
from .chunk_plan import WindowPlan

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


# Operations of attention take so many times as long as those of the linear layers: its products are small, and the
# softmax between them is none.
KEY_COST = 1.2
# Depthwise convolutions, likewise: they read more than they multiply.
DEPTHWISE_COST = 8.0


class EncoderWork(NamedTuple):
    """
    Parts of the work of an encoder.

    Args:
        frame: Operations for each encoder frame, whatever it sees.
        key: Operations for each key that an encoder frame sees.
        distance: Operations for each distance of the position table, once for each batch.
    """

    frame: float
    key: float
    distance: float

    @classmethod
    def of(cls, config: FastConformerConfig) -> EncoderWork:
        """Count the operations of a configuration."""
        size, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
        # Two feed-forward modules, four projections of attention, and the convolution with its gate.
        block = 8 * size * wide + 14 * size * size + DEPTHWISE_COST * 2 * size * config.conv_kernel_size
        # By content, by distance (if there are any), and the values.
        products = 3 if config.has_relative_positions else 2
        return cls(
            frame=layers * block + _count_subsampling(config),
            key=layers * KEY_COST * products * 2 * size,
            distance=layers * 2.0 * size * size if config.has_relative_positions else 0.0,
        )


def _count_subsampling(config: FastConformerConfig) -> float:
    """Operations of the front for an encoder frame, about those of depthwise convolutions of stride 2."""
    channels = config.subsampling_conv_channels
    frames, bins, inputs, total = float(config.subsampling_factor), float(config.num_mel_bins), 1, 0.0
    while frames > 1:
        frames, bins = frames / 2, bins / 2
        total += 2 * frames * bins * channels * (DEPTHWISE_COST * 9 + (inputs if inputs > 1 else 0))
        inputs = channels
    return total + 2 * bins * inputs * config.hidden_size


def estimate_encoder_work(
    config: FastConformerConfig,
    num_frames: int,
    plan: WindowPlan | None = None,
    keys_per_frame: int | None = None,
    windows_per_batch: int = 1,
) -> float:
    """
    Estimate the work of the encoder for a clip, see the module.

    Args:
        config: The model's configuration.
        num_frames: Encoder frames of the clip.
        plan: Windows that the encoder sees; None: the whole clip.
        keys_per_frame: Keys that a frame sees at most; None: all of its window.
        windows_per_batch: Windows that share a position table.
    """
    work = EncoderWork.of(config)
    if plan is None or num_frames <= plan.window_frames:
        encoded = longest = num_frames
        num_windows = 1
    else:
        longest = plan.window_frames
        num_windows = -(-(num_frames - plan.left_frames - plan.right_frames) // plan.step_frames)
        encoded = num_frames + (num_windows - 1) * (plan.left_frames + plan.right_frames)
    keys = longest if keys_per_frame is None else min(keys_per_frame, longest)
    distances = 2 * keys * -(-num_windows // windows_per_batch)
    return encoded * (work.frame + work.key * keys) + distances * work.distance
