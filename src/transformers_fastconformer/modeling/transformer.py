"""Transformer layers over frames and tokens, as Canary and Sortformer have them (NeMo 3.0)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ..kernels.layers import choose_linear, is_reference

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
NORM_EPSILON = 1e-5  # of all norms here, in NeMo too


class LayerShape(NamedTuple):
    """Shape and dropouts of the layers of one stack."""

    hidden_size: int
    num_heads: int
    intermediate_size: int
    activation: str
    is_pre_norm: bool
    attention_dropout: float
    residual_dropout: float
    feed_forward_dropout: float


class FastConformerTransformerAttention(nn.Module):
    """Attention of several heads over tokens or frames, with biases everywhere (NeMo's `MultiHeadAttention`)."""

    def __init__(self, config: Any, shape: LayerShape) -> None:
        super().__init__()
        size = shape.hidden_size
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

    def __init__(self, config: Any, shape: LayerShape) -> None:
        super().__init__()
        size = shape.hidden_size
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

    def __init__(self, config: Any, shape: LayerShape) -> None:
        super().__init__()
        size = shape.hidden_size
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
    """
    Layers over frames (NeMo's `TransformerEncoder`).

    Args:
        config: Configuration of the model, which says how attention is computed.
        shape: Of the layers.
        num_layers: How many there are.
        has_final_norm: A norm after the last layer; only where norms stand before the modules.
    """

    def __init__(self, config: Any, shape: LayerShape, num_layers: int, has_final_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FastConformerTransformerEncoderLayer(config, shape) for _ in range(num_layers))
        has_norm = shape.is_pre_norm and has_final_norm
        self.norm = nn.LayerNorm(shape.hidden_size, eps=NORM_EPSILON) if has_norm else None

    def forward(self, frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, size) to the same; `mask` as in the attention."""
        for layer in self.layers:
            frames = layer(frames, mask)
        return frames if self.norm is None else self.norm(frames)
