"""
The norms after the depthwise convolution. Each kind says itself what it needs; `CONV_NORMS` has them by name.

A kind is apart from the module that holds its parameters, which may be torch's own: tools look for such modules, and
put others in their place (`torch.nn.SyncBatchNorm.convert_sync_batchnorm`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig
from .masking import lengths_to_mask


class ConvNorm(ABC):
    """A kind of norm."""

    # Statistics are those of a clip: the norm is told how many frames count, sees a masked frame after the last one,
    # and clips cannot be packed into one row.
    counts_frames = False
    # In evaluation it is a scale and a shift for each channel, which the convolution before it can take along.
    is_folded = False

    @abstractmethod
    def build(self, config: FastConformerConfig) -> nn.Module:
        """A module with the parameters and buffers."""

    @abstractmethod
    def apply(self, norm: nn.Module, hidden_states: torch.Tensor, norm_frames: torch.Tensor | None) -> torch.Tensor:
        """
        The norm of what the convolution gives.

        Args:
            norm: Made by `build`, or what stands in its place.
            hidden_states: (batch, frames, channels).
            norm_frames: (batch,), how many of the frames the statistics are of; None if the kind does not count them.

        Returns:
            (batch, frames, channels), without the masked frame if the kind counts frames.
        """


class BatchNorm(ConvNorm):
    """Statistics over the batch in training, running ones in evaluation."""

    is_folded = True

    def build(self, config: FastConformerConfig) -> nn.Module:
        return nn.BatchNorm1d(config.hidden_size)

    def apply(self, norm: nn.Module, hidden_states: torch.Tensor, norm_frames: torch.Tensor | None) -> torch.Tensor:
        hidden_states = hidden_states.transpose(1, 2)  # (batch, channels, frames)
        if norm.training and _is_recomputed():
            # Gradient checkpointing runs a block twice in a step, which must move the running statistics once.
            statistics = {name: buffer.clone() for name, buffer in norm.named_buffers()}
            return torch.func.functional_call(norm, statistics, hidden_states).transpose(1, 2)
        return norm(hidden_states).transpose(1, 2)


class FusedBatchNorm(ConvNorm):
    """A scale and a shift, left of a batch norm fused for training."""

    def build(self, config: FastConformerConfig) -> nn.Module:
        return FastConformerScaleNorm(config.hidden_size)

    def apply(self, norm: nn.Module, hidden_states: torch.Tensor, norm_frames: torch.Tensor | None) -> torch.Tensor:
        return norm(hidden_states.transpose(1, 2)).transpose(1, 2)


class LayerNorm(ConvNorm):
    """Statistics over the channels of a frame."""

    def build(self, config: FastConformerConfig) -> nn.Module:
        return nn.LayerNorm(config.hidden_size)

    def apply(self, norm: nn.Module, hidden_states: torch.Tensor, norm_frames: torch.Tensor | None) -> torch.Tensor:
        return norm(hidden_states)


class InstanceNorm(ConvNorm):
    """Statistics of each channel over the frames of a clip, without parameters."""

    counts_frames = True

    def build(self, config: FastConformerConfig) -> nn.Module:
        return FastConformerTimeNorm(config.hidden_size, None)

    def apply(self, norm: nn.Module, hidden_states: torch.Tensor, norm_frames: torch.Tensor | None) -> torch.Tensor:
        return norm(hidden_states.transpose(1, 2), norm_frames)[..., :-1].transpose(1, 2)


class GroupNorm(InstanceNorm):
    """Statistics of groups of channels over the frames of a clip."""

    def build(self, config: FastConformerConfig) -> nn.Module:
        return FastConformerTimeNorm(config.hidden_size, config.conv_norm_groups)


CONV_NORMS: dict[str, ConvNorm] = {
    "batch_norm": BatchNorm(),
    "fused_batch_norm": FusedBatchNorm(),
    "layer_norm": LayerNorm(),
    "instance_norm": InstanceNorm(),
    "group_norm": GroupNorm(),
}


class FastConformerScaleNorm(nn.Module):
    """A scale and a shift for each channel: left of a batch norm fused for training (`fused_batch_norm`)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames) to the same."""
        return hidden_states * self.weight[:, None] + self.bias[:, None]


class FastConformerTimeNorm(nn.Module):
    """
    Group norm or instance norm over time: its statistics belong to a clip, so padding must not be among them.

    NeMo 3.0 takes them over the whole tensor. A clip alone has one masked mel frame after it there (the feature
    extractor's last one), which may make one encoder frame more; that frame is counted here too, so that the result is
    NeMo's for the clip alone, in every batch.

    Args:
        num_channels: Channels.
        num_groups: Groups of channels with statistics of their own; None: each channel, without parameters.
    """

    def __init__(self, num_channels: int, num_groups: int | None, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.num_groups = num_groups or num_channels
        self.epsilon = epsilon
        has_parameters = num_groups is not None
        self.weight = nn.Parameter(torch.ones(num_channels)) if has_parameters else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if has_parameters else None

    def forward(self, hidden_states: torch.Tensor, norm_frames: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden_states: (batch, channels, frames).
            norm_frames: (batch,), how many of the frames the statistics are of.
        """
        num_frames = hidden_states.shape[-1]
        groups = hidden_states.unflatten(1, (self.num_groups, -1))  # (batch, groups, channels of a group, frames)
        mask = lengths_to_mask(norm_frames, num_frames)[:, None, None]
        count = (norm_frames.clamp(min=1) * groups.shape[2])[:, None, None, None]
        mean = groups.masked_fill(~mask, 0.0).sum(dim=(2, 3), keepdim=True) / count
        centred = groups - mean
        variance = centred.masked_fill(~mask, 0.0).square().sum(dim=(2, 3), keepdim=True) / count
        normed = (centred * torch.rsqrt(variance + self.epsilon)).flatten(1, 2)
        if self.weight is None or self.bias is None:
            return normed
        return normed * self.weight[:, None] + self.bias[:, None]


# Modules of this file whose weights, if they have some, start at one and biases at zero.
SCALE_AND_SHIFT_NORMS = (FastConformerScaleNorm, FastConformerTimeNorm)


def _is_recomputed() -> bool:
    """
    True in a forward pass that gradient checkpointing makes again, that is within a backward.

    In a graph of `torch.compile` there is nothing to ask; torch 2.13 moves the statistics once there, 2.6 twice.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
