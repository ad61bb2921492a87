"""The FastConformer encoder, its blocks, and the bare model that `AutoModel` returns."""

from __future__ import annotations

import logging
import math
import random
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..checkpoint_sources import LoadsFromSources
from ..configuration_fastconformer import FastConformerConfig
from ..frames import reduced_frames, subsampled_lengths
from ..kernels.layers import choose_linear, convolve_frames, is_as_built, is_reference, takes_frames_first
from .attention import CPU_BLOCK, FastConformerAttention, build_position_table
from .finite_check import FiniteCheck
from .masking import (
    FrameMask,
    PackedRows,
    is_loop_over_frames_allowed,
    lengths_to_mask,
    resolve_context,
    resolve_lengths,
)
from .outputs import FastConformerEncoderOutput
from .subsampling import build_reduction, build_subsampling

logger = logging.getLogger(__name__)

# Frames that go through a feed-forward module at a time.
FEED_FORWARD_FRAMES = 4096
# A batch is packed if at least this share of its frames is padding.
LEAST_PADDING_SHARE = 0.1


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


class FastConformerScaleNorm(nn.Module):
    """A scale and a shift for each channel: what is left of a batch norm fused for training (`fused_batch_norm`)."""

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

    NeMo 3.0 takes them over the whole tensor. A clip alone has one masked mel frame behind it there (the feature
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


def build_conv_norm(config: FastConformerConfig) -> nn.Module:
    """The norm behind the depthwise convolution."""
    size = config.hidden_size
    if config.conv_norm_type == "batch_norm":
        return nn.BatchNorm1d(size)
    if config.conv_norm_type == "layer_norm":
        return nn.LayerNorm(size)
    if config.conv_norm_type == "fused_batch_norm":
        return FastConformerScaleNorm(size)
    return FastConformerTimeNorm(size, config.conv_norm_groups if config.conv_norm_type == "group_norm" else None)


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
        self.norm = build_conv_norm(config)
        self.activation = ACT2FN[config.hidden_act]
        self.pointwise_conv2 = nn.Linear(size, size, bias=bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        padding_mask: torch.Tensor | None,
        norm_frames: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: (batch, frames, hidden_size).
            padding_mask: (batch, frames), True for real frames; or None.
            norm_frames: (batch,), frames that group and instance norm take their statistics of, at most one more than
                there are; None for the other norms.
        """
        linear = choose_linear(self.config)
        hidden_states = nn.functional.glu(linear(self.pointwise_conv1, hidden_states), dim=-1)
        if padding_mask is not None:
            hidden_states = hidden_states.masked_fill(~padding_mask[..., None], 0.0)
        has_time_norm = isinstance(self.norm, FastConformerTimeNorm)
        if (
            not is_reference(self.config)
            and not has_time_norm
            and takes_frames_first(self.depthwise_conv, self.norm, hidden_states)
        ):
            hidden_states = convolve_frames(self.depthwise_conv, self.norm, hidden_states, self.padding)
            if isinstance(self.norm, nn.LayerNorm):
                hidden_states = self.norm(hidden_states)
            elif isinstance(self.norm, FastConformerScaleNorm):
                hidden_states = self.norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        else:
            hidden_states = self._convolve(hidden_states, norm_frames)
        return linear(self.pointwise_conv2, self.activation(hidden_states))

    def _convolve(self, hidden_states: torch.Tensor, norm_frames: torch.Tensor | None) -> torch.Tensor:
        """Depthwise convolution and norm, operation by operation: (batch, frames, hidden_size) to the same."""
        num_frames = hidden_states.shape[1]
        hidden_states = hidden_states.transpose(1, 2)  # (batch, hidden_size, frames)
        if isinstance(self.norm, FastConformerTimeNorm):
            assert norm_frames is not None
            left_frames, right_frames = self.padding
            hidden_states = self.depthwise_conv(nn.functional.pad(hidden_states, (left_frames, right_frames + 1)))
            return self.norm(hidden_states, norm_frames)[..., :num_frames].transpose(1, 2)
        hidden_states = self.depthwise_conv(nn.functional.pad(hidden_states, self.padding))
        if isinstance(self.norm, nn.LayerNorm):
            return self.norm(hidden_states.transpose(1, 2))  # (batch, frames, hidden_size)
        if self.training and _is_recomputed():
            # Gradient checkpointing runs a block twice in a step, which must move the running statistics once.
            statistics = {name: buffer.clone() for name, buffer in self.norm.named_buffers()}
            return torch.func.functional_call(self.norm, statistics, hidden_states).transpose(1, 2)
        return self.norm(hidden_states).transpose(1, 2)


def _is_recomputed() -> bool:
    """
    Whether the forward pass at hand is one that gradient checkpointing makes again, that is within a backward.

    In a graph of `torch.compile` there is nothing to ask; torch 2.13 moves the statistics once there, 2.6 twice.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


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
        position_embeddings: torch.Tensor,
        mask: FrameMask,
        norm_frames: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: (batch, frames, hidden_size).
            position_embeddings: (positions, hidden_size), see `build_position_table`.
            mask: Which frames are real, and what attention may look at.
            norm_frames: (batch,), see [`FastConformerConvolution`].
            output_attentions: Return the attention probabilities too.

        Returns:
            (batch, frames, hidden_size), and (batch, heads, query, key) or None.
        """
        residual = hidden_states
        hidden_states = self.feed_forward1(self.norm_feed_forward1(residual))
        residual = torch.add(residual, self.dropout(hidden_states), alpha=0.5)
        hidden_states, probabilities = self.self_attn(
            self.norm_self_att(residual), position_embeddings, mask, output_attentions
        )
        residual = residual + self.dropout(hidden_states)
        hidden_states = self.conv(self.norm_conv(residual), mask.padding_mask, norm_frames)
        residual = residual + self.dropout(hidden_states)
        hidden_states = self.feed_forward2(self.norm_feed_forward2(residual))
        residual = torch.add(residual, self.dropout(hidden_states), alpha=0.5)
        return self.norm_out(residual), probabilities


# What an encoder leaves behind, on purpose, of a checkpoint with heads.
HEAD_KEYS = [r"^ctc_head\.", r"^decoder\.", r"^joint\.", r"^prompt_kernel\."]


class FastConformerSpeakerKernel(nn.Module):
    """
    Networks before the first block of a multi-talker model, which mark the speaker to follow (NeMo's
    `SpeakerKernelMixin`). Without a target, as here, the speaker is everybody and nobody is in the background.
    """

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.speaker = self._build(config)
        self.background = self._build(config) if config.has_background_kernel else None

    @staticmethod
    def _build(config: FastConformerConfig) -> nn.Sequential:
        size = config.hidden_size
        return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Dropout(0.5), nn.Linear(size, size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden_size) to the same."""
        hidden_states = hidden_states + self.speaker(hidden_states)
        if self.background is not None:
            hidden_states = hidden_states + self.background(torch.zeros_like(hidden_states))
        return hidden_states


class FastConformerPreTrainedModel(LoadsFromSources, PreTrainedModel):
    """What all FastConformer models share: the configuration class, conventions and fresh weights."""

    config: FastConformerConfig
    config_class = FastConformerConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FastConformerBlock"]
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of `initializer_range`; norms and biases as usual; position biases start at zero."""
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, FastConformerAttention) and module.has_relative_positions:
            nn.init.zeros_(module.bias_u)
            nn.init.zeros_(module.bias_v)
        elif isinstance(module, FastConformerScaleNorm | FastConformerTimeNorm):
            if module.weight is not None and module.bias is not None:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if name.startswith("weight"):
                    nn.init.normal_(parameter, std=self.config.initializer_range)
                else:
                    nn.init.zeros_(parameter)

    def set_attention_context(
        self,
        attention_context: list[int] | tuple[int, ...],
        attention_context_style: str | None = None,
        position_embedding_type: str | None = None,
    ) -> None:
        """
        Choose what attention sees from now on; the weights stay as they are and nothing is loaded again.

        Args:
            attention_context: Encoder frames to the left and right, as in [`FastConformerConfig`]. A multi-latency
                model was trained with those of `config.attention_contexts`; another one is taken, with a warning.
            attention_context_style: Another style, e.g. `"chunked_limited"`.
            position_embedding_type: `"rel_pos_local_attn"` turns full attention into a sliding window (linear in the
                length of the audio), `"rel_pos"` turns it back.

        Raises:
            ValueError: for a context that does not fit the style, and for position embeddings that the weights at hand
                are not made for.
        """
        config = self.config
        position_type = position_embedding_type or config.position_embedding_type
        is_absolute = config.position_embedding_type == "abs_pos"
        if (position_type == "abs_pos") != is_absolute:
            raise ValueError(
                f"position_embedding_type={position_type!r} is not supported for a model with "
                f"position_embedding_type={config.position_embedding_type!r}; expected "
                + ("'abs_pos'." if is_absolute else "'rel_pos' or 'rel_pos_local_attn'.")
            )
        style = attention_context_style or config.attention_context_style
        context = list(attention_context)
        config.check_attention_context(context, style, position_type)
        is_trained = position_type == "rel_pos_local_attn" or context in (config.attention_contexts or [context])
        if not is_trained:
            logger.warning(
                "attention_context=%s is none of the contexts that the model was trained with: %s.",
                context,
                config.attention_contexts,
            )
        config.attention_context = context
        config.attention_context_style = style
        config.position_embedding_type = position_type

    def get_input_embeddings(self) -> nn.Module:
        """
        The layer that brings mel frames to the width of the blocks; there are no embeddings of tokens at the input.

        What asks for it, such as adapters (PEFT) under gradient checkpointing, wants the place where frames come in.
        """
        encoder: Any = self.base_model
        return encoder.subsampling.linear

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another layer where `get_input_embeddings` finds it."""
        encoder: Any = self.base_model
        encoder.subsampling.linear = value

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Not supported: the vocabulary is the tokenizer's, and the blank is the class behind its last token."""
        raise ValueError(
            f"resize_token_embeddings is not supported by {type(self).__name__}; expected the vocabulary that the "
            "checkpoint was trained with. For another one build a model from a configuration with its vocab_size."
        )

    @staticmethod
    def _check_features(
        input_features: torch.Tensor, attention_mask: torch.Tensor | None, input_lengths: torch.Tensor | None
    ) -> FiniteCheck:
        """What `generate` asks of its features; of another shape they are the encoder's to refuse."""
        lengths = None
        if input_features.ndim == 3:
            lengths = resolve_lengths(attention_mask, input_lengths, *input_features.shape[:2])
        return FiniteCheck("input_features", input_features, lengths)

    def _return_dict(self, return_dict: bool | None) -> bool:
        return bool(self.config.return_dict) if return_dict is None else return_dict


class FastConformerEncoder(FastConformerPreTrainedModel):
    r"""
    FastConformer encoder (Rekesh et al., 2023): mel frames to encoder frames.

    Follows NeMo 3.0's `ConformerEncoder`; positions are computed for the length at hand, so that there is no longest
    input. `attn_implementation="sdpa"` (default) has linear memory; `"eager"` is the plain form.

    Args:
        config ([`FastConformerConfig`]): Shape of the encoder.
    """

    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__(config)
        self.subsampling = build_subsampling(config)
        self.reduction = build_reduction(config)
        self.speaker_kernel = FastConformerSpeakerKernel(config) if config.has_speaker_kernel else None
        self.layers = nn.ModuleList(FastConformerBlock(config, index) for index in range(config.num_hidden_layers))
        has_projection = config.encoder_output_size not in (None, config.hidden_size)
        self.output_proj = nn.Linear(config.hidden_size, config.output_size) if has_projection else None
        # Transformers ties what this names, when a model is built and again when weights are loaded.
        self._tied_weights_keys = self._tied_position_biases()
        self.gradient_checkpointing = False
        self.post_init()

    def _tied_position_biases(self) -> dict[str, str]:
        """With `tie_position_biases`, the position biases of later blocks and those of the first, which they are."""
        if not self.config.tie_position_biases or self.config.position_embedding_type == "abs_pos":
            return {}
        return {
            f"layers.{index}.self_attn.{name}": f"layers.0.self_attn.{name}"
            for index in range(1, self.config.num_hidden_layers)
            for name in ("bias_u", "bias_v")
        }

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """As in Transformers, but position biases do not depend on `config.tie_word_embeddings`."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        return self._tied_position_biases()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> FastConformerEncoderOutput | tuple[Any, ...]:
        r"""
        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`): Log-mel features.
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for real frames, zero for the padding behind them.
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*): Real frames of each clip. Says the same
                as `attention_mask`; either suffices, and with neither every frame is real.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*): As everywhere in Transformers;
                attentions take the memory of the eager form.

        Returns:
            [`FastConformerEncoderOutput`]

        Raises:
            ValueError: for features of another shape or without frames, and for a mask and lengths that disagree.
        """
        if input_features.ndim != 3 or input_features.shape[-1] != self.config.num_mel_bins:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}; expected (batch, mel frames, "
                f"{self.config.num_mel_bins}), as {self.config.num_mel_bins} mel features are what this model reads."
            )
        if input_features.shape[1] == 0:
            raise ValueError("input_features has 0 mel frames; expected 1 or more (an empty clip is one of length 0).")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        lengths = resolve_lengths(attention_mask, input_lengths, *input_features.shape[:2])
        if lengths is not None:
            lengths = lengths.to(input_features.device)

        context = self._choose_context()
        norm_frames = self._count_norm_frames(input_features, lengths)
        packed = None
        if not (output_hidden_states or output_attentions):
            packed = self._plan_packing(lengths, input_features.shape[1])
        if packed is not None:
            assert lengths is not None
            num_padded_frames = self._count_frames(input_features.shape[1])
            hidden_states = self._subsample_packed(input_features, lengths.tolist(), packed)
            lengths = torch.tensor(packed.lengths, dtype=torch.int64, device=input_features.device)
        else:
            if lengths is not None:
                # Whatever stands in the padding, NaN too, must not reach a real frame.
                padding = ~lengths_to_mask(lengths, input_features.shape[1])
                input_features = input_features.masked_fill(padding[..., None], 0.0)
            hidden_states, lengths = self.subsampling(input_features.to(self.dtype), lengths)
        if self.config.scale_input:
            hidden_states = hidden_states * math.sqrt(self.config.hidden_size)
        positions = self._position_table(
            hidden_states, hidden_states.shape[1] if packed is None else max(packed.lengths)
        )
        if self.config.position_embedding_type == "abs_pos":
            if packed is None:
                hidden_states = hidden_states + positions
            else:
                for start, stop in packed.spans:
                    hidden_states[:, start:stop] += positions[: stop - start]
        hidden_states = nn.functional.dropout(hidden_states, self.config.dropout_pre_encoder, self.training)
        if self.speaker_kernel is not None:
            hidden_states = self.speaker_kernel(hidden_states)
        if packed is None:
            mask = self._build_mask(hidden_states, lengths, context)
        else:
            window = resolve_context(self.config.attention_context_style, context)
            mask = packed.build_mask(window, hidden_states.device)

        all_hidden_states: tuple[torch.Tensor, ...] | None = (hidden_states,) if output_hidden_states else None
        all_attentions: tuple[torch.Tensor, ...] | None = () if output_attentions else None
        for index, (layer, drop_probability) in enumerate(
            zip(self.layers, self._layer_drop_probabilities(), strict=True)
        ):
            block_input = hidden_states
            hidden_states, probabilities = layer(hidden_states, positions, mask, norm_frames, bool(output_attentions))
            if self.training and drop_probability > 0:
                hidden_states = _drop_layer(block_input, hidden_states, drop_probability)
            if self.reduction is not None and index == self.config.reduction_position:
                hidden_states, lengths = self.reduction(hidden_states, lengths)
                positions = self._position_table(hidden_states, hidden_states.shape[1])
                mask = self._build_mask(hidden_states, lengths, context)
                if norm_frames is not None:
                    norm_frames = reduced_frames(  # type: ignore[assignment]
                        norm_frames,  # type: ignore[arg-type]
                        self.config.reduction_type,
                        self.config.reduction_factor,
                    )
            if all_hidden_states is not None:
                all_hidden_states = (*all_hidden_states, hidden_states)
            if all_attentions is not None:
                all_attentions = (*all_attentions, probabilities)

        if self.output_proj is not None:
            hidden_states = self.output_proj(hidden_states)
        if packed is not None:
            hidden_states = packed.unpack(hidden_states, num_padded_frames)
        if self.reduction is not None and self.config.reduction_position == -1:
            hidden_states, lengths = self.reduction(hidden_states, lengths)
        if lengths is None:
            lengths = torch.full(
                (hidden_states.shape[0],), hidden_states.shape[1], dtype=torch.int64, device=hidden_states.device
            )
        output = FastConformerEncoderOutput(
            last_hidden_state=hidden_states,
            encoder_lengths=lengths,
            hidden_states=all_hidden_states,
            attentions=all_attentions,
        )
        return output if self._return_dict(return_dict) else output.to_tuple()

    def _plan_packing(self, lengths: torch.Tensor | None, num_mel_frames: int) -> PackedRows | None:
        """
        Whether this batch goes through the blocks as one row of its real frames, and how; None: padded, as it is.

        On a CPU, where a frame of padding costs as much as any other. In training padding counts in the statistics of
        batch norm, as in NeMo; a graph must not depend on lengths; what looks at a batch as a whole, hooks on the
        blocks among it, is shown one.
        """
        config = self.config
        if lengths is None or lengths.device.type != "cpu" or lengths.shape[0] < 2 or self.training:
            return None
        if is_reference(config) or not is_loop_over_frames_allowed(num_mel_frames):
            return None
        has_own_frames = config.subsampling_type in ("dw_striding", "striding", "none")
        has_own_norms = config.conv_norm_type not in ("instance_norm", "group_norm")
        if self.reduction is not None or not (has_own_frames and has_own_norms):
            return None
        mel_lengths = lengths.tolist()
        if min(mel_lengths) == 0:
            return None
        packed = PackedRows(tuple(map(self._count_frames, mel_lengths)), max(config.conv_padding))
        num_padded_rows = len(mel_lengths) * self._count_frames(num_mel_frames)
        if packed.num_rows > (1 - LEAST_PADDING_SHARE) * num_padded_rows:
            return None
        return packed if all(map(is_as_built, self.modules())) else None

    def _count_frames(self, num_mel_frames: int) -> int:
        config = self.config
        if config.subsampling_type == "none" or config.subsampling_factor == 1:
            return num_mel_frames
        return subsampled_lengths(
            num_mel_frames, config.subsampling_type, config.subsampling_factor, config.causal_downsampling
        )

    def _subsample_packed(
        self, input_features: torch.Tensor, mel_lengths: list[int], packed: PackedRows
    ) -> torch.Tensor:
        """The front of the encoder for each clip alone: (1, packed rows, hidden_size)."""
        rows: torch.Tensor | None = None
        for clip, ((start, stop), mel_length) in enumerate(zip(packed.spans, mel_lengths, strict=True)):
            frames, _ = self.subsampling(input_features[clip, None, :mel_length].to(self.dtype), None)
            if rows is None:  # of the dtype that autocast, too, makes of it
                rows = frames.new_zeros(1, packed.num_rows, frames.shape[-1])
            rows[:, start:stop] = frames
        assert rows is not None
        return rows

    def _position_table(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Sinusoids for so many frames, of the dtype and on the device of the states; with dropout in training."""
        table = build_position_table(self.config, num_frames, hidden_states.dtype, hidden_states.device)
        return nn.functional.dropout(table, self.config.dropout_positions, self.training)

    def _choose_context(self) -> list[int]:
        """The context in use; in training one of those the model is trained with, drawn for the batch, as in NeMo."""
        config = self.config
        is_local = config.position_embedding_type == "rel_pos_local_attn"
        if self.training and config.attention_contexts and not is_local:
            return random.choices(config.attention_contexts, weights=config.attention_context_probabilities)[0]
        return list(config.attention_context)

    def _build_mask(self, hidden_states: torch.Tensor, lengths: torch.Tensor | None, context: list[int]) -> FrameMask:
        """
        Which frames are real and what attention may look at. Queries beyond a clip's length are not masked: nothing
        reads them.
        """
        num_frames = hidden_states.shape[1]
        padding_mask = None if lengths is None else lengths_to_mask(lengths, num_frames)
        mask = FrameMask(num_frames, resolve_context(self.config.attention_context_style, context), padding_mask)
        if self.config.position_embedding_type == "rel_pos_local_attn":
            return mask  # the window is no mask there
        is_whole = self.config._attn_implementation == "eager" or not is_loop_over_frames_allowed(num_frames)
        return mask.materialize(hidden_states.device) if is_whole or num_frames <= CPU_BLOCK[0] else mask

    def _count_norm_frames(self, input_features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor | None:
        """Encoder frames of each clip with one masked mel frame behind it, for the norms that count them: (batch,)."""
        config = self.config
        if config.conv_norm_type not in ("instance_norm", "group_norm"):
            return None
        num_clips, num_frames = input_features.shape[:2]
        if lengths is None:
            lengths = torch.full((num_clips,), num_frames, dtype=torch.int64, device=input_features.device)
        factor = config.subsampling_factor
        # A stack that is not full is a frame of the tensor, though none of the clip.
        filling = factor - 1 if config.subsampling_type.startswith("stacking") else 0
        return subsampled_lengths(lengths + 1 + filling, config.subsampling_type, factor, config.causal_downsampling)

    def _layer_drop_probabilities(self) -> list[float]:
        """Stochastic depth of each block, as NeMo's `compute_stochastic_depth_drop_probs`."""
        config = self.config
        start, count = config.layerdrop_start_layer, config.num_hidden_layers
        if config.layerdrop == 0:
            return [0.0] * count
        if config.layerdrop_mode == "uniform":
            return [0.0] * start + [float(config.layerdrop)] * (count - start)
        return [0.0] * start + [config.layerdrop * (index + 1) / (count - start) for index in range(count - start)]


def _drop_layer(block_input: torch.Tensor, block_output: torch.Tensor, probability: float) -> torch.Tensor:
    """
    Skip a block by chance, or scale its change up so that the expectation stays.

    Every parameter has a gradient either way, so that distributed training does not wait for one.
    """
    is_kept = torch.rand(()) >= probability
    return block_input + (block_output - block_input) * (is_kept / (1.0 - probability))


class FastConformerModel(FastConformerPreTrainedModel):
    r"""
    The bare model, an encoder without a head: what `AutoModel` returns for every FastConformer checkpoint, whatever
    head it was trained with.

    Args:
        config ([`FastConformerConfig`]): Shape of the encoder.
    """

    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__(config)
        self.encoder = FastConformerEncoder(config)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> FastConformerEncoderOutput | tuple[Any, ...]:
        """As [`FastConformerEncoder.forward`]."""
        return self.encoder(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=self._return_dict(return_dict),
        )
