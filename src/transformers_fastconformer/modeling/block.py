"""A block of the encoder: its feed-forward modules, its convolution, and stochastic depth."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration_fastconformer import FastConformerConfig
from ..kernels.layers import can_be_folded, choose_linear, convolve_frames, is_reference, takes_frames_first
from .attention import FastConformerAttention
from .conv_norms import CONV_NORMS
from .masking import FrameMask, is_loop_over_frames_allowed
from .stream_layer import StreamLayer

# Frames that go through a feed-forward module at a time.
FEED_FORWARD_FRAMES = 4096


class FastConformerFeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.attention_bias)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.activation_dropout)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden_size) to the same."""
        if self.training or torch.is_grad_enabled() or not is_loop_over_frames_allowed(hidden_states.shape[1]):
            return self._forward_rows(hidden_states)
        # The inner states are several times as wide: of a long clip they exist for some frames at a time.
        pieces = [self._forward_rows(piece) for piece in hidden_states.split(FEED_FORWARD_FRAMES, dim=1)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _forward_rows(self, hidden_states: torch.Tensor) -> torch.Tensor:
        linear = choose_linear(self.config)
        return linear(self.linear2, self.dropout(linear(self.linear1, hidden_states, self.activation)))


class FastConformerConvolution(nn.Module):
    """Pointwise convolution and gate, depthwise convolution over time, norm, activation, pointwise convolution."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        size, bias = config.hidden_size, config.convolution_bias
        self.config = config
        self.padding = config.conv_padding
        # A pointwise convolution is a linear layer on frames, and as one it is much faster in 16 bits on a CPU.
        self.pointwise_conv1 = nn.Linear(size, 2 * size, bias=bias)
        self.depthwise_conv = nn.Conv1d(size, size, config.conv_kernel_size, groups=size, bias=bias)
        self.norm_kind = CONV_NORMS[config.conv_norm_type]
        self.norm = self.norm_kind.build(config)
        self.activation = ACT2FN[config.hidden_act]
        self.pointwise_conv2 = nn.Linear(size, size, bias=bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        padding_mask: torch.Tensor | None,
        norm_frames: torch.Tensor | None = None,
        stream: StreamLayer | None = None,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: (batch, frames, hidden_size).
            padding_mask: (batch, frames), True for real frames; or None.
            norm_frames: (batch,), frames that the norm takes its statistics of, at most one more than there are; None
                for norms that do not count them.
            stream: State of live streams, whose newest frames these are; None for whole clips.
        """
        linear = choose_linear(self.config)
        hidden_states = nn.functional.glu(linear(self.pointwise_conv1, hidden_states), dim=-1)
        if padding_mask is not None:
            hidden_states = hidden_states.masked_fill(~padding_mask[..., None], 0.0)
        padding = self.padding
        if stream is not None:
            hidden_states, padding = stream.extend(hidden_states, padding[1]), (0, 0)
        if self._allows_frames_first(hidden_states):
            hidden_states = self._convolve_frames_first(hidden_states, padding)
        else:
            hidden_states = self._convolve(hidden_states, padding, norm_frames)
        return linear(self.pointwise_conv2, self.activation(hidden_states))

    def _allows_frames_first(self, hidden_states: torch.Tensor) -> bool:
        """True if `_convolve_frames_first` can stand for `_convolve`."""
        if is_reference(self.config) or self.norm_kind.counts_frames:
            return False
        # The convolution first: it is never taken so in a graph, where the norm must not be looked into.
        is_taken = takes_frames_first(self.depthwise_conv, hidden_states)
        return is_taken and (not self.norm_kind.is_folded or can_be_folded(self.norm))

    def _convolve_frames_first(self, hidden_states: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
        """The same as `_convolve` in the form that a CPU is fast in."""
        if self.norm_kind.is_folded:
            return convolve_frames(self.depthwise_conv, hidden_states, padding, self.norm)
        hidden_states = convolve_frames(self.depthwise_conv, hidden_states, padding)
        return self.norm_kind.apply(self.norm, hidden_states, None)

    def _convolve(
        self, hidden_states: torch.Tensor, padding: tuple[int, int], norm_frames: torch.Tensor | None
    ) -> torch.Tensor:
        """Depthwise convolution and norm, operation by operation: (batch, frames, hidden_size) to the same."""
        left_frames, right_frames = padding
        padding = (left_frames, right_frames + int(self.norm_kind.counts_frames))
        # (batch, hidden_size, frames) in the convolution
        hidden_states = self.depthwise_conv(nn.functional.pad(hidden_states.transpose(1, 2), padding)).transpose(1, 2)
        return self.norm_kind.apply(self.norm, hidden_states, norm_frames)


class FastConformerBlock(GradientCheckpointingLayer):
    """Half a feed-forward module, self-attention, convolution, half a feed-forward module (Gulati et al., 2020)."""

    def __init__(self, config: FastConformerConfig, layer_index: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.norm_feed_forward1 = nn.LayerNorm(size)
        self.feed_forward1 = FastConformerFeedForward(config)
        self.norm_self_att = nn.LayerNorm(size)
        self.self_attn = FastConformerAttention(config, layer_index)
        self.norm_conv = nn.LayerNorm(size)
        self.conv = FastConformerConvolution(config)
        self.norm_feed_forward2 = nn.LayerNorm(size)
        self.feed_forward2 = FastConformerFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm_out = nn.LayerNorm(size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor | None,
        mask: FrameMask | None,
        norm_frames: torch.Tensor | None = None,
        output_attentions: bool = False,
        stream: StreamLayer | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: (batch, frames, hidden_size).
            position_embeddings: (positions, hidden_size), see `build_position_table`; None with `stream`.
            mask: Which frames are real, and what attention may look at; None with `stream`.
            norm_frames: (batch,), see [`FastConformerConvolution`].
            output_attentions: Return the attention probabilities too.
            stream: State of live streams in this block, whose newest frames these are; None for whole clips.

        Returns:
            (batch, frames, hidden_size), and (batch, heads, query, key) or None.
        """
        residual = hidden_states
        hidden_states = self.feed_forward1(self.norm_feed_forward1(residual))
        residual = torch.add(residual, self.dropout(hidden_states), alpha=0.5)
        hidden_states = self.norm_self_att(residual)
        if stream is None:
            assert position_embeddings is not None
            assert mask is not None
            padding_mask = mask.padding_mask
            hidden_states, probabilities = self.self_attn(hidden_states, position_embeddings, mask, output_attentions)
        else:
            padding_mask = stream.padding_mask
            hidden_states, probabilities = self.self_attn.step(hidden_states, stream), None
        residual = residual + self.dropout(hidden_states)
        hidden_states = self.conv(self.norm_conv(residual), padding_mask, norm_frames, stream)
        residual = residual + self.dropout(hidden_states)
        hidden_states = self.feed_forward2(self.norm_feed_forward2(residual))
        residual = torch.add(residual, self.dropout(hidden_states), alpha=0.5)
        return self.norm_out(residual), probabilities


def layerdrop_probability(config: FastConformerConfig, layer_index: int) -> float:
    """Chance in training to skip a block, as NeMo's `compute_stochastic_depth_drop_probs`."""
    start, count = config.layerdrop_start_layer, config.num_hidden_layers
    if config.layerdrop == 0 or layer_index < start:
        return 0.0
    if config.layerdrop_mode == "uniform":
        return float(config.layerdrop)
    return config.layerdrop * (layer_index - start + 1) / (count - start)


def drop_block(block_input: torch.Tensor, block_output: torch.Tensor, probability: float) -> torch.Tensor:
    """
    Skip a block by chance, or scale its change up so that the expectation stays.

    Every parameter has a gradient either way, so that distributed training does not wait for one.
    """
    is_kept = torch.rand((), dtype=torch.float32, device="cpu") >= probability
    return block_input + (block_output - block_input) * (is_kept.to(torch.float32) / (1.0 - probability))
