"""What tests of attention share: random states, contexts, the softmax of a loop, and a small encoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from transformers_fastconformer import FastConformerConfig, FastConformerEncoder

CPU = torch.device("cpu")
HEADS, HEAD_DIM = 3, 4
LENGTHS = torch.tensor([19, 1, 11, 0])
CONTEXTS = [
    ("regular", [-1, -1]),
    ("regular", [3, 2]),
    ("regular", [-1, 0]),
    ("chunked_limited", [6, 2]),
    ("chunked_limited", [-1, 3]),
    ("chunked_limited_with_rc", [4, 3, 2]),
]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def draw_states(num_frames: int, batch_size: int = len(LENGTHS), count: int = 4) -> list[torch.Tensor]:
    """`count` tensors (batch, heads, frames, head_dim)."""
    return [draw(batch_size, HEADS, num_frames, HEAD_DIM) for _ in range(count)]


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def build_config(**options: Any) -> FastConformerConfig:
    shape = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 16,
        "num_mel_bins": 8,
        "subsampling_conv_channels": 4,
        "subsampling_factor": 4,
        "conv_kernel_size": 5,
    }
    return FastConformerConfig(**(shape | options), attn_implementation="sdpa")


def build_encoder(**options: Any) -> FastConformerEncoder:
    encoder = FastConformerEncoder(build_config(**options)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            nn.init.normal_(parameter, std=0.4)
    return encoder


LOCAL = {"position_embedding_type": "rel_pos_local_attn", "attention_context": [4, 3]}
