"""The front of the encoder: mel frames to encoder frames, by convolutions, by stacking or by only a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig
from ..frames import SUBSAMPLING_KERNEL_SIZE as KERNEL_SIZE
from ..frames import SUBSAMPLING_STRIDE as STRIDE
from ..frames import (
    Lengths,
    NoReduction,
    NoSubsampling,
    PooledReduction,
    StackedSubsampling,
    StridedSubsampling,
    convolution_lengths,
    halvings,
    subsampling_padding,
)
from ..kernels.layers import apply_linear, is_as_built, is_inference
from .masking import is_loop_over_frames_allowed, lengths_to_mask

# Values after the first convolution that exist at a time, on a GPU and on a CPU, where larger pieces of memory are
# given back and fetched anew each time.
BLOCK_VALUES = (1 << 27, 1 << 21)
# Encoder frames that go through the linear layer at a time.
LINEAR_FRAMES = 512


class FastConformerConvSubsampling(nn.Module):
    """
    Strided 3 x 3 convolutions over time and mel axis, each halving both, then a linear layer.

    `dw_striding`: the first one is full, the others depthwise followed by pointwise ones. `striding`: all are full.
    Follows NeMo 3.0's `ConvSubsampling`: frames beyond a clip's length are zeroed before every strided convolution
    and at the end, so that padding never reaches a real frame.

    The keys of `conv_layers` are the positions in NeMo's `Sequential`, activations counted.
    """

    def __init__(
        self,
        is_depthwise: bool,
        factor: int,
        num_channels: int,
        input_size: int,
        output_size: int,
        is_causal: bool = False,
    ) -> None:
        super().__init__()
        # Causal convolutions pad both axes alike, 2 to the left and 1 to the right (NeMo's `CausalConv2D`).
        self.padding = subsampling_padding(is_causal)
        self.is_causal = is_causal
        self.num_channels = num_channels
        self.num_stages = halvings(factor)
        conv_padding = 0 if is_causal else self.padding[0]
        self.conv_layers = nn.ModuleDict()
        position = 0
        for stage in range(self.num_stages):
            has_pointwise = stage > 0 and is_depthwise
            self.conv_layers[str(position)] = nn.Conv2d(
                num_channels if stage > 0 else 1,
                num_channels,
                KERNEL_SIZE,
                stride=STRIDE,
                padding=conv_padding,
                groups=num_channels if has_pointwise else 1,
            )
            position += 1
            if has_pointwise:
                self.conv_layers[str(position)] = nn.Conv2d(num_channels, num_channels, 1)
                position += 1
            position += 1  # the activation
        num_columns = StridedSubsampling(factor, is_causal).count_frames(input_size)
        self.linear = nn.Linear(num_channels * num_columns, output_size)

    def forward(
        self, input_features: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, mel frames, mels) to (batch, encoder frames, hidden_size), and the lengths likewise."""
        if self._allows_blocks(input_features):
            return self._forward_blocks(input_features, lengths)
        hidden_states = input_features[:, None]  # (batch, 1, mel frames, mels)
        for strided, pointwise in self._stages():
            hidden_states = _zero_padding(hidden_states, lengths)
            if self.is_causal:
                hidden_states = nn.functional.pad(hidden_states, self.padding * 2)
            hidden_states = strided(hidden_states)
            if pointwise is not None:
                hidden_states = pointwise(hidden_states)
            hidden_states = nn.functional.relu(hidden_states)
            if lengths is not None:
                lengths = self._count_stage_frames(lengths)
        hidden_states = _zero_padding(hidden_states, lengths)
        # (batch, channels, encoder frames, mels') to (batch, encoder frames, channels * mels')
        return self.linear(hidden_states.transpose(1, 2).flatten(-2)), lengths

    def _stages(self) -> list[tuple[nn.Conv2d, nn.Conv2d | None]]:
        """Each strided convolution, and the pointwise one after it or None."""
        stages: list[tuple[nn.Conv2d, nn.Conv2d | None]] = []
        for layer in cast("Iterable[nn.Conv2d]", self.conv_layers.values()):
            if layer.stride == (1, 1):
                stages[-1] = (stages[-1][0], layer)
            else:
                stages.append((layer, None))
        return stages

    def _count_stage_frames(self, lengths: Lengths) -> Lengths:
        """Frames after one strided convolution."""
        return convolution_lengths(lengths, KERNEL_SIZE, STRIDE, *self.padding)

    def _allows_blocks(self, input_features: torch.Tensor) -> bool:
        """True if only values are wanted, of layers that are what they were built as."""
        if self.training or not is_loop_over_frames_allowed(input_features.shape[1]):
            return False
        layers: list[nn.Module] = list(self.conv_layers.values())
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        are_plain = all(type(layer) is nn.Conv2d and is_as_built(layer) for layer in layers)
        return are_plain and is_inference(input_features, *parameters)

    def _forward_blocks(
        self, input_features: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        The same for a block of encoder frames at a time, so that no feature map is as long as the clip.

        Before the linear layer a frame has some thousand values, and before the first strides a hundred thousand. On
        a CPU channels are last in memory, which oneDNN's convolutions are several times as fast with.
        """
        batch_size, num_mel_frames = input_features.shape[:2]
        counts = [(num_mel_frames, lengths)]
        for _ in range(self.num_stages):
            num_frames, lengths = counts[-1]
            lengths = None if lengths is None else self._count_stage_frames(lengths)
            counts.append((self._count_stage_frames(num_frames), lengths))
        num_frames, lengths = counts[-1]
        # After the first convolution a frame of the encoder is 2 ** (stages - 1) frames of half the mels.
        values_per_frame = (batch_size * self.num_channels * input_features.shape[2] << self.num_stages) // 4
        block_frames = max(BLOCK_VALUES[input_features.device.type == "cpu"] // max(values_per_frame, 1), 4)
        outputs = []
        for group_start in range(0, num_frames, LINEAR_FRAMES):
            group_stop = min(group_start + LINEAR_FRAMES, num_frames)
            blocks = [
                self._convolve_block(input_features, counts, start, min(start + block_frames, group_stop))
                for start in range(group_start, group_stop, block_frames)
            ]
            outputs.append(apply_linear(self.linear, blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)))
        if not outputs:
            return input_features.new_zeros(batch_size, 0, self.linear.out_features), lengths
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), lengths

    def _convolve_block(
        self, input_features: torch.Tensor, counts: list[tuple[int, torch.Tensor | None]], start: int, stop: int
    ) -> torch.Tensor:
        """
        Encoder frames `start` to before `stop`, before the linear layer: (batch, frames, channels * mels').

        Args:
            counts: Rows and lengths of the features and after each strided convolution.
        """
        spans = self._find_spans(start, stop)
        left, right = spans[0]
        states = input_features[:, max(left, 0) : min(right, counts[0][0])][:, None]
        mel_padding = 0 if self.is_causal else self.padding[0]
        for stage, (strided, pointwise) in enumerate(self._stages()):
            states = self._pad_block(states, spans[stage], *counts[stage])
            # Only what is beyond the clip's ends is padding in time.
            states = nn.functional.conv2d(
                states, strided.weight, strided.bias, STRIDE, (0, mel_padding), groups=strided.groups
            )
            if pointwise is None:
                states = nn.functional.relu_(states)
            states = _cut_surplus(states, spans[stage + 1], counts[stage + 1][0])
            if pointwise is not None:
                states = nn.functional.relu_(pointwise(states))
        states = _zero_padding(states, counts[-1][1], start)
        return states.transpose(1, 2).flatten(-2)

    def _find_spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The frames of every stage, the features first, that encoder frames need, zeros around the stage included."""
        spans = [(start, stop)]
        for _ in range(self.num_stages):
            start, stop = STRIDE * start - self.padding[0], STRIDE * (stop - 1) - self.padding[0] + KERNEL_SIZE
            spans.append((start, stop))
        return spans[::-1]

    def _pad_block(
        self, states: torch.Tensor, span: tuple[int, int], num_frames: int, lengths: torch.Tensor | None
    ) -> torch.Tensor:
        """The frames of a span that lie in its stage, (batch, channels, frames, mels), padded for the convolution."""
        left, right = span
        first = max(left, 0)
        states = _zero_padding(states, lengths, first)
        mel_padding = self.padding if self.is_causal else (0, 0)
        time_padding = (first - left, max(right - num_frames, 0))
        if any(mel_padding) or any(time_padding):
            states = nn.functional.pad(states, (*mel_padding, *time_padding))
        if states.device.type == "cpu":
            # Not `contiguous`, which leaves strides alone where there is one channel, and with them the output's.
            states = states.to(memory_format=torch.channels_last)
        return states


def _cut_surplus(states: torch.Tensor, span: tuple[int, int], num_frames: int) -> torch.Tensor:
    """Without what was computed beyond the ends of a stage, from zeros: it is padding of the next one."""
    surplus_left, surplus_right = max(-span[0], 0), max(span[1] - num_frames, 0)
    if not surplus_left and not surplus_right:
        return states
    return states[:, :, surplus_left : states.shape[2] - surplus_right]


def _zero_padding(
    hidden_states: torch.Tensor, lengths: torch.Tensor | None, first_frame: int | None = None
) -> torch.Tensor:
    """
    Zero the frames beyond the lengths of (batch, channels, frames, mels).

    Args:
        first_frame: Where these frames start in the clip, for a block of them, which stays as it is where nothing is
            to be zeroed; None for whole clips.
    """
    if lengths is None:
        return hidden_states
    num_frames = hidden_states.shape[2]
    if first_frame is not None:
        if lengths.device.type == "cpu" and bool((lengths >= first_frame + num_frames).all()):
            return hidden_states
        lengths = lengths - first_frame
    return hidden_states * lengths_to_mask(lengths, num_frames)[:, None, :, None].to(hidden_states.dtype)


class FastConformerStackingSubsampling(nn.Module):
    """
    `factor` frames side by side, then a linear layer; with a layer norm of the single frames in `stacking_norm`.

    Follows NeMo 3.0's `StackingSubsampling`, but a last stack that is not full of a clip's own frames is no frame of
    that clip, whatever the batch is padded to: see `StackedSubsampling`.
    """

    def __init__(self, factor: int, input_size: int, output_size: int, has_norm: bool) -> None:
        super().__init__()
        self.counts = StackedSubsampling(factor)
        self.norm = nn.LayerNorm(input_size) if has_norm else None
        self.linear = nn.Linear(factor * input_size, output_size)

    def forward(
        self, input_features: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, mel frames, mels) to (batch, encoder frames, hidden_size), and the lengths likewise."""
        num_clips, num_frames, size = input_features.shape
        num_stacks, factor = self.counts.count_rows(num_frames), self.counts.factor
        hidden_states = nn.functional.pad(input_features, (0, 0, 0, num_stacks * factor - num_frames))
        if self.norm is not None:
            hidden_states = self.norm(hidden_states)
        hidden_states = hidden_states.reshape(num_clips, num_stacks, factor * size)
        if lengths is None:
            lengths = torch.full((num_clips,), num_frames, dtype=torch.int64, device=hidden_states.device)
        return self.linear(hidden_states), self.counts.count_frames(lengths)


class FastConformerLinearSubsampling(nn.Module):
    """No subsampling: one encoder frame a mel frame."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, output_size)

    def forward(
        self, input_features: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, frames, mels) to (batch, frames, hidden_size); the lengths stay."""
        return self.linear(input_features), lengths


def _build_convolutions(config: FastConformerConfig, is_depthwise: bool) -> nn.Module:
    return FastConformerConvSubsampling(
        is_depthwise,
        config.subsampling_factor,
        config.subsampling_conv_channels,
        config.num_mel_bins,
        config.hidden_size,
        is_causal=config.causal_downsampling,
    )


def _build_stacking(config: FastConformerConfig, has_norm: bool) -> nn.Module:
    return FastConformerStackingSubsampling(
        config.subsampling_factor, config.num_mel_bins, config.hidden_size, has_norm
    )


def _build_linear(config: FastConformerConfig) -> nn.Module:
    return FastConformerLinearSubsampling(config.num_mel_bins, config.hidden_size)


# The counts of frames of each are in `frames.SUBSAMPLINGS`.
SUBSAMPLING_MODULES: dict[str, Callable[[FastConformerConfig], nn.Module]] = {
    "dw_striding": partial(_build_convolutions, is_depthwise=True),
    "striding": partial(_build_convolutions, is_depthwise=False),
    "stacking": partial(_build_stacking, has_norm=False),
    "stacking_norm": partial(_build_stacking, has_norm=True),
    "none": _build_linear,
}


def build_subsampling(config: FastConformerConfig) -> nn.Module:
    """The front of the encoder that the configuration asks for."""
    build = (
        _build_linear
        if isinstance(config.subsampling, NoSubsampling)
        else SUBSAMPLING_MODULES[config.subsampling_type]
    )
    return build(config)


class FastConformerPooling(nn.Module):
    """Reduction in time among the blocks by max-pooling; follows NeMo 3.0's `SubsamplingReductionModule`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.counts = PooledReduction(factor)

    def forward(
        self, hidden_states: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, frames, hidden_size) to (batch, frames // factor or 1, hidden_size), and the lengths likewise."""
        num_clips, num_frames = hidden_states.shape[:2]
        factor = self.counts.factor
        if num_frames < factor:
            # Too short for a frame: one of padding, as in a batch with longer clips, so that the tensor is not empty.
            if lengths is None:
                lengths = torch.full((num_clips,), num_frames, dtype=torch.int64, device=hidden_states.device)
            hidden_states = nn.functional.pad(hidden_states, (0, 0, 0, factor - num_frames))
        if lengths is not None:
            lengths = self.counts.count_frames(lengths)
        # The pooling of one axis of an image, which torch.export can follow for any number of frames.
        return nn.functional.max_pool2d(hidden_states[:, None], (factor, 1))[:, 0], lengths


def _build_pooling(config: FastConformerConfig) -> nn.Module:
    return FastConformerPooling(config.reduction_factor)


def _build_strided_reduction(config: FastConformerConfig) -> nn.Module:
    size = config.hidden_size
    return FastConformerConvSubsampling(False, config.reduction_factor, size, size, size)


# The counts of frames of each are in `frames.REDUCTIONS`.
REDUCTION_MODULES: dict[str, Callable[[FastConformerConfig], nn.Module]] = {
    "pooling": _build_pooling,
    "striding": _build_strided_reduction,
}


def build_reduction(config: FastConformerConfig) -> nn.Module | None:
    """The reduction among the blocks that the configuration asks for, if any."""
    if config.reduction_type is None or isinstance(config.reduction, NoReduction):
        return None
    return REDUCTION_MODULES[config.reduction_type](config)
