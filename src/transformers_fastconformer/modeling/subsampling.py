"""The front of the encoder: mel frames to encoder frames, by convolutions, by stacking or by a linear layer alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig
from ..frames import convolution_lengths, halvings, reduced_lengths, subsampled_lengths, subsampling_padding
from ..kernels.layers import apply_linear, is_as_built, is_inference
from .masking import is_loop_over_frames_allowed, lengths_to_mask

KERNEL_SIZE, STRIDE = 3, 2
# Values behind the first convolution that exist at a time, on a GPU and on a CPU, where larger pieces of memory are
# given back and fetched anew each time.
BLOCK_VALUES = (1 << 27, 1 << 18)
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
        subsampling_type: str,
        factor: int,
        num_channels: int,
        input_size: int,
        output_size: int,
        is_causal: bool = False,
    ) -> None:
        super().__init__()
        # Causal convolutions pad both axes alike, 2 to the left and 1 to the right (NeMo's `CausalConv2D`).
        self.padding = subsampling_padding(KERNEL_SIZE, STRIDE, is_causal)
        self.is_causal = is_causal
        self.num_channels = num_channels
        self.is_depthwise = subsampling_type == "dw_striding"
        num_stages = halvings(factor)
        conv_padding = 0 if is_causal else self.padding[0]
        self.conv_layers = nn.ModuleDict()
        position = 0
        for stage in range(num_stages):
            is_depthwise = stage > 0 and self.is_depthwise
            self.conv_layers[str(position)] = nn.Conv2d(
                num_channels if stage > 0 else 1,
                num_channels,
                KERNEL_SIZE,
                stride=STRIDE,
                padding=conv_padding,
                groups=num_channels if is_depthwise else 1,
            )
            position += 1
            if is_depthwise:
                self.conv_layers[str(position)] = nn.Conv2d(num_channels, num_channels, 1)
                position += 1
            position += 1  # the activation
        input_size = convolution_lengths(input_size, KERNEL_SIZE, STRIDE, *self.padding, repeats=num_stages)
        self.linear = nn.Linear(num_channels * input_size, output_size)

    def forward(
        self, input_features: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, mel frames, mels) to (batch, encoder frames, hidden_size), and the lengths likewise."""
        if self._allows_blocks(input_features):
            return self._forward_blocks(input_features, lengths)
        hidden_states = input_features[:, None]  # (batch, 1, mel frames, mels)
        for position, layer in self.conv_layers.items():
            if layer.stride == (1, 1):
                hidden_states = nn.functional.relu(layer(hidden_states))
                continue
            hidden_states = _zero_padding(hidden_states, lengths)
            if self.is_causal:
                hidden_states = nn.functional.pad(hidden_states, self.padding * 2)
            hidden_states = layer(hidden_states)
            if not self.is_depthwise or position == "0":  # the others have theirs behind the pointwise convolution
                hidden_states = nn.functional.relu(hidden_states)
            if lengths is not None:
                lengths = convolution_lengths(lengths, KERNEL_SIZE, STRIDE, *self.padding)
        hidden_states = _zero_padding(hidden_states, lengths)
        # (batch, channels, encoder frames, mels') to (batch, encoder frames, channels * mels')
        return self.linear(hidden_states.transpose(1, 2).flatten(-2)), lengths

    def _allows_blocks(self, input_features: torch.Tensor) -> bool:
        """Whether values are all that is wanted, of layers that are what they were built as."""
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
        stage_frames = [num_mel_frames]  # of the input, then behind each strided convolution
        stage_lengths = [lengths]
        num_stages = sum(layer.stride != (1, 1) for layer in self.conv_layers.values())
        for _ in range(num_stages):
            stage_frames.append(convolution_lengths(stage_frames[-1], KERNEL_SIZE, STRIDE, *self.padding))
            previous = stage_lengths[-1]
            stage_lengths.append(
                None if previous is None else convolution_lengths(previous, KERNEL_SIZE, STRIDE, *self.padding)
            )
        num_frames = stage_frames[-1]
        # Behind the first convolution a frame of the encoder is 2 ** (stages - 1) frames of half the mels.
        values_per_frame = (batch_size * self.num_channels * input_features.shape[2] << num_stages) // 4
        block_frames = max(BLOCK_VALUES[input_features.device.type == "cpu"] // max(values_per_frame, 1), 4)
        outputs = []
        for group_start in range(0, num_frames, LINEAR_FRAMES):
            group_stop = min(group_start + LINEAR_FRAMES, num_frames)
            starts = range(group_start, group_stop, block_frames)
            stops = [min(start + block_frames, group_stop) for start in starts]
            blocks = [
                self._convolve_block(input_features, stage_frames, stage_lengths, start, stop)
                for start, stop in zip(starts, stops, strict=True)
            ]
            outputs.append(apply_linear(self.linear, blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)))
        if not outputs:
            return input_features.new_zeros(batch_size, 0, self.linear.out_features), stage_lengths[-1]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), stage_lengths[-1]

    def _convolve_block(
        self,
        input_features: torch.Tensor,
        stage_frames: list[int],
        stage_lengths: list[torch.Tensor | None],
        start: int,
        stop: int,
    ) -> torch.Tensor:
        """Encoder frames `start` to before `stop`, before the linear layer: (batch, frames, channels * mels')."""
        spans = [(start, stop)]
        for _ in range(len(stage_frames) - 1):  # which frames of the stage before they need, zeros around it included
            start, stop = STRIDE * start - self.padding[0], STRIDE * (stop - 1) - self.padding[0] + KERNEL_SIZE
            spans.append((start, stop))
        spans.reverse()
        stage = 0
        left, right = spans[0]
        states = input_features[:, max(left, 0) : min(right, stage_frames[0])][:, None]
        layers: dict[str, Any] = dict(self.conv_layers.items())
        for position, layer in layers.items():
            if layer.stride == (1, 1):
                states = nn.functional.relu_(layer(states))
                continue
            left, right = spans[stage]
            first = max(left, 0)
            states = _zero_padding(states, stage_lengths[stage], first)
            mel_padding = self.padding if self.is_causal else (0, 0)
            time_padding = (first - left, max(right - stage_frames[stage], 0))
            if any(mel_padding) or any(time_padding):
                states = nn.functional.pad(states, (*mel_padding, *time_padding))
            if states.device.type == "cpu":
                # Not `contiguous`, which leaves strides alone where there is one channel, and with them the output's.
                states = states.to(memory_format=torch.channels_last)
            # Only what is beyond the clip's ends is padding in time.
            states = nn.functional.conv2d(
                states, layer.weight, layer.bias, STRIDE, (0, layer.padding[1]), groups=layer.groups
            )
            if not self.is_depthwise or position == "0":
                states = nn.functional.relu_(states)
            stage += 1
            # What was computed beyond the ends of the stage, from zeros, is padding of the next one.
            left, right = spans[stage]
            surplus_left, surplus_right = max(-left, 0), max(right - stage_frames[stage], 0)
            if surplus_left or surplus_right:
                states = states[:, :, surplus_left : states.shape[2] - surplus_right]
        states = _zero_padding(states, stage_lengths[stage], max(spans[stage][0], 0))
        return states.transpose(1, 2).flatten(-2)


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
    that clip, whatever the batch is padded to: see `subsampled_lengths`.
    """

    def __init__(self, factor: int, input_size: int, output_size: int, has_norm: bool) -> None:
        super().__init__()
        self.factor = factor
        self.norm = nn.LayerNorm(input_size) if has_norm else None
        self.linear = nn.Linear(factor * input_size, output_size)

    def forward(
        self, input_features: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, mel frames, mels) to (batch, encoder frames, hidden_size), and the lengths likewise."""
        num_clips, num_frames, size = input_features.shape
        num_stacks = (num_frames + self.factor - 1) // self.factor
        hidden_states = nn.functional.pad(input_features, (0, 0, 0, num_stacks * self.factor - num_frames))
        if self.norm is not None:
            hidden_states = self.norm(hidden_states)
        hidden_states = hidden_states.reshape(num_clips, num_stacks, self.factor * size)
        if lengths is None:
            lengths = torch.full((num_clips,), num_frames, dtype=torch.int64, device=hidden_states.device)
        return self.linear(hidden_states), subsampled_lengths(lengths, "stacking", self.factor)


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


def build_subsampling(config: FastConformerConfig) -> nn.Module:
    """The front of the encoder that the configuration asks for."""
    # NeMo leaves subsampling out when the factor is 1, whatever the type says.
    if config.subsampling_type == "none" or config.subsampling_factor == 1:
        return FastConformerLinearSubsampling(config.num_mel_bins, config.hidden_size)
    if config.subsampling_type in ("stacking", "stacking_norm"):
        return FastConformerStackingSubsampling(
            config.subsampling_factor,
            config.num_mel_bins,
            config.hidden_size,
            has_norm=config.subsampling_type == "stacking_norm",
        )
    return FastConformerConvSubsampling(
        config.subsampling_type,
        config.subsampling_factor,
        config.subsampling_conv_channels,
        config.num_mel_bins,
        config.hidden_size,
        is_causal=config.causal_downsampling,
    )


class FastConformerPooling(nn.Module):
    """Reduction in time among the blocks by max-pooling; follows NeMo 3.0's `SubsamplingReductionModule`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(
        self, hidden_states: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, frames, hidden_size) to (batch, frames // factor or 1, hidden_size), and the lengths likewise."""
        num_clips, num_frames = hidden_states.shape[:2]
        if num_frames < self.factor:
            # Too short for a frame: one of padding, as in a batch with longer clips, so that the tensor is not empty.
            if lengths is None:
                lengths = torch.full((num_clips,), num_frames, dtype=torch.int64, device=hidden_states.device)
            hidden_states = nn.functional.pad(hidden_states, (0, 0, 0, self.factor - num_frames))
        if lengths is not None:
            lengths = reduced_lengths(lengths, "pooling", self.factor)
        # The pooling of one axis of an image, which torch.export can follow for any number of frames.
        return nn.functional.max_pool2d(hidden_states[:, None], (self.factor, 1))[:, 0], lengths


def build_reduction(config: FastConformerConfig) -> nn.Module | None:
    """The reduction among the blocks that the configuration asks for, if any."""
    if config.reduction_type is None or config.reduction_factor == 1:
        return None
    if config.reduction_type == "pooling":
        return FastConformerPooling(config.reduction_factor)
    size = config.hidden_size
    return FastConformerConvSubsampling("striding", config.reduction_factor, size, size, size)
