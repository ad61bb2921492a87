"""Transformer layers of Canary: a prompted decoder, and the encoder that may stand before it (NeMo 3.0)."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ..configuration_multitask import FastConformerMultitaskConfig
from ..kernels.layers import choose_linear, is_reference
from .positions import sinusoids

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
NORM_EPSILON = 1e-5  # of all norms here, in NeMo too


class LayerShape(NamedTuple):
    """Shape and dropouts of the layers of one stack."""

    num_heads: int
    intermediate_size: int
    activation: str
    is_pre_norm: bool
    attention_dropout: float
    residual_dropout: float
    feed_forward_dropout: float


def shape_of(config: FastConformerMultitaskConfig, part: str) -> LayerShape:
    """The shape of the layers of `"decoder"` or `"transformer_encoder"`."""
    return LayerShape(
        num_heads=getattr(config, f"num_{part}_attention_heads"),
        intermediate_size=getattr(config, f"{part}_intermediate_size"),
        activation=getattr(config, f"{part}_activation"),
        is_pre_norm=getattr(config, f"{part}_pre_norm"),
        attention_dropout=getattr(config, f"{part}_attention_dropout"),
        residual_dropout=getattr(config, f"{part}_residual_dropout"),
        feed_forward_dropout=getattr(config, f"{part}_feed_forward_dropout"),
    )


class FastConformerTransformerAttention(nn.Module):
    """Attention of several heads over tokens or frames, with biases everywhere (NeMo's `MultiHeadAttention`)."""

    def __init__(self, config: FastConformerMultitaskConfig, shape: LayerShape) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        self.config = config
        self.num_heads = shape.num_heads
        self.head_size = size // shape.num_heads
        self.attention_dropout = shape.attention_dropout
        self.residual_dropout = shape.residual_dropout
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, length, size) to (batch, heads, length, head size)."""
        return states.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)

    def project(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of states: each (batch, heads, length, head size)."""
        linear = choose_linear(self.config)
        return self.split_heads(linear(self.k_proj, states)), self.split_heads(linear(self.v_proj, states))

    def forward(
        self,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Attend to keys and values that are projected already.

        Args:
            hidden_states: (batch, queries, size).
            keys, values: (batch, heads, keys, head size).
            mask: Boolean, (batch or 1, 1, queries or 1, keys), True for keys that are seen; None: all are.
            output_attentions: Return the probabilities too.

        Returns:
            (batch, queries, size), and (batch, heads, queries, keys) or None.
        """
        linear = choose_linear(self.config)
        query = self.split_heads(linear(self.q_proj, hidden_states))
        dropout = self.attention_dropout if self.training else 0.0
        probabilities = None
        if output_attentions or is_reference(self.config):
            # NeMo divides queries and keys by the fourth root of their size, before their product.
            scale = math.sqrt(math.sqrt(self.head_size))
            scores = (query / scale) @ (keys / scale).transpose(-1, -2)
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            probabilities = scores.softmax(dim=-1)
            context = functional.dropout(probabilities, dropout) @ values
        else:
            context = functional.scaled_dot_product_attention(query, keys, values, mask, dropout_p=dropout)
        output = linear(self.o_proj, context.transpose(1, 2).flatten(2))
        return functional.dropout(output, self.residual_dropout, self.training), probabilities


class FastConformerTransformerFeedForward(nn.Module):
    """Two linear layers over each token or frame (NeMo's `PositionWiseFF`)."""

    def __init__(self, config: FastConformerMultitaskConfig, shape: LayerShape) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        self.config = config
        self.linear1 = nn.Linear(size, shape.intermediate_size)
        self.activation = ACTIVATIONS[shape.activation]()
        self.linear2 = nn.Linear(shape.intermediate_size, size)
        self.dropout = shape.feed_forward_dropout

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, length, size) to the same."""
        linear = choose_linear(self.config)
        output = linear(self.linear2, linear(self.linear1, hidden_states, self.activation))
        return functional.dropout(output, self.dropout, self.training)


class FastConformerTransformerEncoderLayer(nn.Module):
    """Attention over frames and a feed-forward module (NeMo's `TransformerEncoderBlock`)."""

    def __init__(self, config: FastConformerMultitaskConfig) -> None:
        super().__init__()
        shape, size = shape_of(config, "transformer_encoder"), config.decoder_hidden_size
        self.is_pre_norm = shape.is_pre_norm
        self.norm_self_attn = nn.LayerNorm(size, eps=NORM_EPSILON)
        self.self_attn = FastConformerTransformerAttention(config, shape)
        self.norm_feed_forward = nn.LayerNorm(size, eps=NORM_EPSILON)
        self.feed_forward = FastConformerTransformerFeedForward(config, shape)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, size) to the same; `mask` as in the attention."""
        states = self.norm_self_attn(hidden_states) if self.is_pre_norm else hidden_states
        attended, _ = self.self_attn(states, *self.self_attn.project(states), mask)
        hidden_states = attended + hidden_states
        if self.is_pre_norm:
            return self.feed_forward(self.norm_feed_forward(hidden_states)) + hidden_states
        hidden_states = self.norm_self_attn(hidden_states)
        return self.norm_feed_forward(self.feed_forward(hidden_states) + hidden_states)


class FastConformerTransformerEncoder(nn.Module):
    """Layers over the frames that the decoder attends to (NeMo's `TransformerEncoder`)."""

    def __init__(self, config: FastConformerMultitaskConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            FastConformerTransformerEncoderLayer(config) for _ in range(config.num_transformer_encoder_layers)
        )
        has_norm = config.transformer_encoder_pre_norm and config.transformer_encoder_final_norm
        self.norm = nn.LayerNorm(config.decoder_hidden_size, eps=NORM_EPSILON) if has_norm else None

    def forward(self, frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, size) to the same; `mask` as in the attention."""
        for layer in self.layers:
            frames = layer(frames, mask)
        return frames if self.norm is None else self.norm(frames)


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
