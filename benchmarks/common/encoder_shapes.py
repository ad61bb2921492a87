"""Shapes of the encoders that benchmarks compare: configurations, random features, and numbers of operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.nemo_shapes import SHAPES, build_config
from transformers_fastconformer import FastConformerConfig

MEL_FRAMES_PER_SECOND = 100
LOCAL_CONTEXT = [128, 128]
# Names of shapes here, with their names in `nemo_shapes.py`; the tiny one is for tests.
PUBLISHED = {"0.6b": "parakeet-tdt-0.6b-v2", "110m": "parakeet-tdt_ctc-110m"}
TINY = {
    **{"d_model": 32, "n_layers": 2, "mels": 16, "vocab_size": 32, "use_bias": False, "xscaling": False},
    **{"pred_layers": 0, "durations": [], "ctc": True},
    "encoder": {"n_heads": 4, "subsampling_conv_channels": 8},
}
MAX_CEILING_FRAMES = 6000  # a larger product is not faster


def shape_name(name: str, num_layers: int | None) -> str:
    """Name of a shape; another number of layers is part of it."""
    return name if num_layers is None else f"{name}-{num_layers}layers"


def nemo_options(shape: str) -> dict[str, Any]:
    """The arguments of NeMo's `ConformerEncoder` for a shape, such as `0.6b` or `0.6b-2layers`."""
    stem, _, layers = shape.removesuffix("layers").rpartition("-")
    base = stem if shape.endswith("layers") else shape
    if base != "tiny" and base not in PUBLISHED:
        raise ValueError(f"shape={shape!r} is not known; expected one of {[*PUBLISHED, 'tiny']}, '-2layers' after it.")
    description = TINY if base == "tiny" else SHAPES[PUBLISHED[base]]
    options = dict(build_config(description, Path())["encoder"])
    del options["_target_"]
    if shape.endswith("layers"):
        options["n_layers"] = int(layers)
    return options


def our_options(shape: str) -> dict[str, Any]:
    """The arguments of our configurations for a shape."""
    options = nemo_options(shape)
    return {
        "num_mel_bins": options["feat_in"],
        "hidden_size": options["d_model"],
        "num_hidden_layers": options["n_layers"],
        "num_attention_heads": options["n_heads"],
        "intermediate_size": options["ff_expansion_factor"] * options["d_model"],
        "attention_bias": options["use_bias"],
        "convolution_bias": options["use_bias"],
        "scale_input": options["xscaling"],
        "subsampling_factor": options["subsampling_factor"],
        "subsampling_conv_channels": options["subsampling_conv_channels"],
        "conv_kernel_size": options["conv_kernel_size"],
    }


def our_config(shape: str) -> FastConformerConfig:
    """Our configuration of a shape."""
    return FastConformerConfig(**our_options(shape))


def count_flops(config: FastConformerConfig, mel_lengths: Sequence[int], window_frames: int | None = None) -> int:
    """
    Count the floating-point operations that one pass over a batch needs; a multiplication and an addition are two.

    Work that does not change the result is not counted: padding, distances that a query does not have, scores outside
    of the window; nor are norms, activations and softmax, which are not matrix products. The table of distances is
    projected once for a batch and layer, see `count_position_flops`.

    Args:
        mel_lengths: Real mel frames of each clip.
        window_frames: Keys that a query sees with local attention; None: all of its clip.
    """
    size, wide, channels = config.hidden_size, config.intermediate_size, config.subsampling_conv_channels
    lengths = [config.count_encoder_frames(length) for length in mel_lengths]
    total = 0
    for mel_length in mel_lengths:
        frames, bins, inputs = mel_length, config.num_mel_bins, 1
        for _ in range(config.subsampling_factor.bit_length() - 1):
            frames, bins = (frames + 1) // 2, (bins + 1) // 2
            # The first convolution is full, with one input channel; the others are depthwise, then pointwise.
            total += 2 * frames * bins * channels * (9 if inputs == 1 else 9 + inputs)
            inputs = channels
        total += 2 * frames * channels * bins * size
    per_frame = 2 * 2 * 2 * size * wide + 4 * 2 * size * size  # two feed-forward modules; attention's projections
    per_frame += 2 * size * 2 * size + 2 * size * config.conv_kernel_size + 2 * size * size  # convolution
    layer = sum(lengths) * per_frame
    for length in lengths:
        keys = length if window_frames is None else min(window_frames, length)
        layer += 3 * 2 * length * keys * size  # by content, by distance, and the values
    total += count_position_flops(config, max(mel_lengths), window_frames)
    return total + config.num_hidden_layers * layer


def count_position_flops(config: FastConformerConfig, mel_frames: int, window_frames: int | None = None) -> int:
    """
    Count the part of `count_flops` that depends only on the length: every layer's projection of the distances.

    A system that keeps the projections from one pass to the next does not repeat it for clips of the same length.
    """
    distances = 2 * config.count_encoder_frames(mel_frames) - 1 if window_frames is None else window_frames
    return config.num_hidden_layers * 2 * distances * config.hidden_size**2


def make_features(config: FastConformerConfig, clip_seconds: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Make normal noise, similar to normalised features: (batch, mel frames, mels), and lengths (batch,)."""
    lengths = torch.tensor([round(seconds * MEL_FRAMES_PER_SECOND) for seconds in clip_seconds])
    generator = torch.Generator().manual_seed(len(clip_seconds))
    features = torch.randn(len(lengths), int(lengths.max()), config.num_mel_bins, generator=generator)
    padding = torch.arange(features.shape[1]) >= lengths[:, None]
    return features.masked_fill_(padding[..., None], 0.0), lengths


def ceiling_flops(config: FastConformerConfig, mel_lengths: Sequence[int]) -> int:
    """Operations of one call of the ceiling."""
    frames = min(sum(config.count_encoder_frames(length) for length in mel_lengths), MAX_CEILING_FRAMES)
    return 2 * 2 * frames * config.hidden_size * config.intermediate_size
