"""The fronts of the encoder and the reductions among the blocks: values, lengths, and padding that changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from transformers_fastconformer import FastConformerConfig
from transformers_fastconformer.frames import REDUCTIONS, SUBSAMPLINGS
from transformers_fastconformer.modeling.subsampling import (
    REDUCTION_MODULES,
    SUBSAMPLING_MODULES,
    build_reduction,
    build_subsampling,
)

NUM_MELS, WIDTH = 10, 6
FRONTS: dict[str, dict[str, Any]] = {
    **{f"dw_striding x{factor}": {"subsampling_factor": factor} for factor in (2, 4, 8, 16)},
    **{f"striding x{factor}": {"subsampling_type": "striding", "subsampling_factor": factor} for factor in (2, 4, 8)},
    "causal dw_striding x8": {"subsampling_factor": 8, "causal_downsampling": True},
    "causal striding x4": {"subsampling_type": "striding", "subsampling_factor": 4, "causal_downsampling": True},
    "dw_striding, one channel": {"subsampling_factor": 4, "subsampling_conv_channels": 1},
    "stacking x3": {"subsampling_type": "stacking", "subsampling_factor": 3},
    "stacking_norm x4": {"subsampling_type": "stacking_norm", "subsampling_factor": 4},
    "none": {"subsampling_type": "none", "subsampling_factor": 1},
}


def build_config(**options: Any) -> FastConformerConfig:
    return FastConformerConfig(
        **{
            "num_mel_bins": NUM_MELS,
            "hidden_size": WIDTH,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "subsampling_conv_channels": 4,
        }
        | options
    )


def randomize(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> tuple[nn.Module, FastConformerConfig]:
    config = build_config(**FRONTS[request.param])
    return randomize(build_subsampling(config)), config


def convolve_slowly(module: Any, features: torch.Tensor, config: FastConformerConfig) -> torch.Tensor:
    """The convolutions in the order of the paper: each stage, then its activation; no padding to mask."""
    planes = features[None, None]  # (1, 1, mel frames, mels)
    left, right = (2, 1) if config.causal_downsampling else (1, 1)
    layers = list(module.conv_layers.values())
    first = layers[0]
    while layers:
        layer = layers.pop(0)
        is_depthwise = config.subsampling_type == "dw_striding" and layer is not first
        padded = nn.functional.pad(planes, (left, right, left, right))
        groups = layer.weight.shape[0] if is_depthwise else 1
        planes = nn.functional.conv2d(padded, layer.weight, layer.bias, stride=2, groups=groups)
        if is_depthwise:
            pointwise = layers.pop(0)
            planes = nn.functional.conv2d(planes, pointwise.weight, pointwise.bias)
        planes = planes.clamp(min=0.0)
    flat = planes[0].transpose(0, 1).flatten(1)  # (frames, channels * mels')
    return flat @ module.linear.weight.T + module.linear.bias


@torch.no_grad()
def test_convolutions_in_their_order() -> None:
    for name in FRONTS:
        if "striding" not in name:
            continue
        config = build_config(**FRONTS[name])
        module = randomize(build_subsampling(config))
        features = torch.randn(37, NUM_MELS)
        expected = convolve_slowly(module, features, config)
        torch.testing.assert_close(module(features[None], None)[0][0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_stacking_puts_frames_side_by_side() -> None:
    module = randomize(build_subsampling(build_config(subsampling_type="stacking", subsampling_factor=3)))
    features = torch.randn(1, 8, NUM_MELS)
    output, lengths = module(features, torch.tensor([8]))
    assert lengths.tolist() == [2]
    for frame in range(2):
        stack = torch.cat([features[0, 3 * frame + place] for place in range(3)])
        torch.testing.assert_close(output[0, frame], stack @ module.linear.weight.T + module.linear.bias)


@torch.no_grad()
@pytest.mark.parametrize("mel_length", [1, 2, 3, 7, 8, 9, 30])
def test_lengths_are_those_of_frames_py(front: tuple[nn.Module, FastConformerConfig], mel_length: int) -> None:
    module, config = front
    output, lengths = module(torch.randn(1, mel_length, NUM_MELS), torch.tensor([mel_length]))
    expected = config.count_encoder_frames(mel_length)
    assert lengths.tolist() == [expected]
    assert output.shape[1] >= expected


@torch.no_grad()
def test_padding_changes_nothing(front: tuple[nn.Module, FastConformerConfig]) -> None:
    module, _ = front
    clips = [torch.randn(length, NUM_MELS) for length in (1, 7, 23, 24, 25, 40)]
    batch = torch.full((len(clips), 43, NUM_MELS), 1e3)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    outputs, lengths = module(batch, torch.tensor([len(clip) for clip in clips]))
    for clip, output, length in zip(clips, outputs, lengths, strict=True):
        alone, alone_length = module(clip[None], torch.tensor([len(clip)]))
        assert alone_length.tolist() == [length]
        torch.testing.assert_close(output[:length], alone[0, :length], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_no_lengths_mean_that_every_frame_is_real(front: tuple[nn.Module, FastConformerConfig]) -> None:
    module, _ = front
    features = torch.randn(2, 23, NUM_MELS)
    expected, expected_lengths = module(features, torch.tensor([23, 23]))
    output, lengths = module(features, None)
    assert torch.equal(output, expected)
    # None stands for all of the frames.
    assert (lengths if lengths is not None else torch.tensor([output.shape[1]] * 2)).tolist() == (
        expected_lengths.tolist()
    )


def test_causal_front_sees_no_later_chunk() -> None:
    """An encoder frame of a causal front is a function of the mel frames up to its own, as in streaming."""
    module = randomize(build_subsampling(build_config(subsampling_factor=8, causal_downsampling=True)))
    features = torch.randn(1, 41, NUM_MELS, requires_grad=True)
    output, _ = module(features, None)
    for frame in range(output.shape[1]):
        (gradient,) = torch.autograd.grad(output[0, frame].sum(), features, retain_graph=True)
        reached = gradient[0].abs().sum(-1).nonzero().max()
        assert reached <= 8 * frame


def test_causal_front_pads_the_mels_alike() -> None:
    """80 mels leave 11 columns, not 10: 2 to the left and 1 to the right on that axis too."""
    module = build_subsampling(build_config(num_mel_bins=80, subsampling_factor=8, causal_downsampling=True))
    assert module.linear.in_features == 4 * 11
    assert build_subsampling(build_config(num_mel_bins=80, subsampling_factor=8)).linear.in_features == 4 * 10


# Reductions


@torch.no_grad()
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 16])
def test_pooling_is_the_largest_of_each_group(factor: int, num_frames: int) -> None:
    config = build_config(reduction_type="pooling", reduction_position=0, reduction_factor=factor)
    module = build_reduction(config)
    assert module is not None
    hidden_states = torch.randn(2, num_frames, WIDTH)
    output, lengths = module(hidden_states, torch.tensor([num_frames, num_frames // 2]))
    assert output.shape[1] == max(num_frames // factor, 1)
    expected_lengths = [config.reduction.count_frames(length) for length in (num_frames, num_frames // 2)]
    assert lengths.tolist() == expected_lengths
    for frame in range(num_frames // factor):
        expected = hidden_states[:, factor * frame : factor * (frame + 1)].max(dim=1).values
        assert torch.equal(output[:, frame], expected)


@torch.no_grad()
def test_a_clip_too_short_to_pool_has_no_frames() -> None:
    module = build_reduction(build_config(reduction_type="pooling", reduction_position=0, reduction_factor=4))
    assert module is not None
    output, lengths = module(torch.randn(2, 3, WIDTH), None)
    assert output.shape == (2, 1, WIDTH)
    assert lengths.tolist() == [0, 0]


@torch.no_grad()
def test_striding_reduction_ignores_padding() -> None:
    module = build_reduction(build_config(reduction_type="striding", reduction_position=0, reduction_factor=2))
    assert module is not None
    randomize(module)
    clip = torch.randn(1, 9, WIDTH)
    alone, alone_lengths = module(clip, torch.tensor([9]))
    padded = torch.cat([clip, torch.full((1, 4, WIDTH), 1e3)], dim=1)
    output, lengths = module(padded, torch.tensor([9]))
    assert lengths.tolist() == alone_lengths.tolist() == [5]
    torch.testing.assert_close(output[:, :5], alone, rtol=1e-5, atol=1e-5)


def test_without_a_reduction_there_is_no_module() -> None:
    assert build_reduction(build_config()) is None
    assert build_reduction(build_config(reduction_type="pooling", reduction_position=0, reduction_factor=1)) is None


def test_every_name_that_counts_frames_has_a_module() -> None:
    assert set(SUBSAMPLING_MODULES) == set(SUBSAMPLINGS)
    assert set(REDUCTION_MODULES) == set(REDUCTIONS)
