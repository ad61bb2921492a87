"""The prompted transformer decoder of Canary (NeMo 3.0)."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ..configuration_multitask import FastConformerMultitaskConfig
from .positions import sinusoids
from .transformer import (
    NORM_EPSILON,
    FastConformerTransformerAttention,
    FastConformerTransformerFeedForward,
    LayerShape,
)


def shape_of(config: FastConformerMultitaskConfig, part: str) -> LayerShape:
    """The shape of the layers of `"decoder"` or `"transformer_encoder"`."""
    return LayerShape(
        hidden_size=config.decoder_hidden_size,
        num_heads=getattr(config, f"num_{part}_attention_heads"),
        intermediate_size=getattr(config, f"{part}_intermediate_size"),
        activation=getattr(config, f"{part}_activation"),
        is_pre_norm=getattr(config, f"{part}_pre_norm"),
        attention_dropout=getattr(config, f"{part}_attention_dropout"),
        residual_dropout=getattr(config, f"{part}_residual_dropout"),
        feed_forward_dropout=getattr(config, f"{part}_feed_forward_dropout"),
    )


class FastConformerDecoderLayer(nn.Module):
    """Attention over tokens, attention over frames, and a feed-forward module (NeMo's `TransformerDecoderBlock`)."""

    def __init__(self, config: FastConformerMultitaskConfig, index: int) -> None:
        super().__init__()
        shape, size = shape_of(config, "decoder"), config.decoder_hidden_size
        self.index = index
        self.is_pre_norm = shape.is_pre_norm
        self.norm_self_attn = nn.LayerNorm(size, eps=NORM_EPSILON)
        self.self_attn = FastConformerTransformerAttention(config, shape)
        self.norm_cross_attn = nn.LayerNorm(size, eps=NORM_EPSILON)
        self.cross_attn = FastConformerTransformerAttention(config, shape)
        self.norm_feed_forward = nn.LayerNorm(size, eps=NORM_EPSILON)
        self.feed_forward = FastConformerTransformerFeedForward(config, shape)

    def forward(
        self,
        hidden_states: torch.Tensor,
        frames: torch.Tensor,
        mask: torch.Tensor | None,
        frames_mask: torch.Tensor | None,
        past_key_values: Any = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """
        One layer over the tokens that are new.

        Args:
            hidden_states: (batch, tokens, size).
            frames: (batch, frames, size).
            mask, frames_mask: As in the attention, for tokens and for frames.
            past_key_values: Transformers' `EncoderDecoderCache`, which is changed in place; None: nothing is kept.
            output_attentions: Return the probabilities of both attentions.

        Returns:
            The states, and the probabilities of the attentions over tokens and over frames, or None.
        """
        states = self.norm_self_attn(hidden_states) if self.is_pre_norm else hidden_states
        keys, values = self.self_attn.project(states)
        if past_key_values is not None:
            keys, values = past_key_values.self_attention_cache.update(keys, values, self.index)
        attended, probabilities = self.self_attn(states, keys, values, mask, output_attentions)
        hidden_states = attended + hidden_states
        states = self.norm_cross_attn(hidden_states) if self.is_pre_norm else self.norm_self_attn(hidden_states)
        hidden_states = hidden_states if self.is_pre_norm else states
        attended, cross_probabilities = self.cross_attn(
            states, *self._project_frames(frames, past_key_values), frames_mask, output_attentions
        )
        hidden_states = attended + hidden_states
        if self.is_pre_norm:
            hidden_states = self.feed_forward(self.norm_feed_forward(hidden_states)) + hidden_states
        else:
            hidden_states = self.norm_cross_attn(hidden_states)
            hidden_states = self.norm_feed_forward(self.feed_forward(hidden_states) + hidden_states)
        return hidden_states, probabilities, cross_probabilities

    def _project_frames(self, frames: torch.Tensor, past_key_values: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the frames, computed once for a cache."""
        if past_key_values is None:
            return self.cross_attn.project(frames)
        if past_key_values.is_updated.get(self.index):
            layer = past_key_values.cross_attention_cache.layers[self.index]
            return layer.keys, layer.values
        keys, values = past_key_values.cross_attention_cache.update(*self.cross_attn.project(frames), self.index)
        past_key_values.is_updated[self.index] = True
        return keys, values


class DecoderStates(NamedTuple):
    """States of the tokens after the last layer, and what was asked for on the way."""

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor, ...] | None
    cross_attentions: tuple[torch.Tensor, ...] | None


class FastConformerMultitaskDecoder(nn.Module):
    """Tokens to states, with attention over the frames of the audio (NeMo's `TransformerDecoderNM`)."""

    def __init__(self, config: FastConformerMultitaskConfig) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, size)
        self.position_embedding = (
            nn.Embedding(config.decoder_max_positions, size) if config.decoder_learned_positions else None
        )
        self.norm_embedding = nn.LayerNorm(size, eps=NORM_EPSILON)
        self.layers = nn.ModuleList(
            FastConformerDecoderLayer(config, index) for index in range(config.num_decoder_layers)
        )
        has_norm = config.decoder_pre_norm and config.decoder_final_norm
        self.norm = nn.LayerNorm(size, eps=NORM_EPSILON) if has_norm else None

    def position_table(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Embeddings of all positions: (positions, size)."""
        if self.position_embedding is not None:
            return self.position_embedding.weight
        config = self.config
        stored = getattr(torch, config.decoder_positions_dtype)
        return _rounded_sinusoids(config.decoder_max_positions + 1, config.decoder_hidden_size, stored, dtype, device)

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Embed tokens at positions, both (batch, tokens): (batch, tokens, size)."""
        embedded = self.embedding(tokens)
        embedded = embedded + self.position_table(embedded.dtype, embedded.device)[positions]
        return functional.dropout(self.norm_embedding(embedded), self.config.decoder_embedding_dropout, self.training)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        frames: torch.Tensor,
        mask: torch.Tensor | None,
        frames_mask: torch.Tensor | None,
        past_key_values: Any = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderStates:
        """
        States of new tokens.

        Args:
            tokens, positions: (batch, tokens).
            frames: (batch, frames, size).
            mask, frames_mask, past_key_values, output_attentions: As in the layers.
            output_hidden_states: Return the embeddings and the states after each layer.
        """
        hidden_states = self.embed(tokens, positions)
        all_states, all_probabilities, all_cross = [hidden_states], [], []
        for layer in self.layers:
            hidden_states, probabilities, cross = layer(
                hidden_states, frames, mask, frames_mask, past_key_values, output_attentions
            )
            all_states.append(hidden_states)
            all_probabilities.append(probabilities)
            all_cross.append(cross)
        if self.norm is not None:
            hidden_states = self.norm(hidden_states)
        return DecoderStates(
            hidden_states,
            tuple(all_states) if output_hidden_states else None,
            tuple(all_probabilities) if output_attentions else None,
            tuple(all_cross) if output_attentions else None,
        )


@functools.lru_cache(maxsize=8)
def scaled_sinusoids(num_positions: int, size: int) -> torch.Tensor:
    """Sinusoids of positions divided by the root of their width, as NeMo's `FixedPositionalEncoding` has them."""
    positions = torch.arange(num_positions, dtype=torch.int64, device="cpu")
    return sinusoids(positions, size, torch.float32) / math.sqrt(size)


@functools.lru_cache(maxsize=8)
def _rounded_sinusoids(
    num_positions: int, size: int, stored: torch.dtype, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """`scaled_sinusoids` as a checkpoint stores them and a model reads them: made once, not in each step."""
    return scaled_sinusoids(num_positions, size).to(stored).to(dtype=dtype, device=device)


class FastConformerTokenHead(nn.Module):
    """Classes of the tokens: the embedding's weights, and a bias of its own (NeMo's `TokenClassifier`, tied)."""

    def __init__(self, config: FastConformerMultitaskConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = config.token_head_dropout

    def forward(self, hidden_states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, size) to logits, (batch, tokens, classes); `weight` is that of the embedding."""
        hidden_states = functional.dropout(hidden_states, self.dropout, self.training)
        return functional.linear(hidden_states, weight, self.bias)
