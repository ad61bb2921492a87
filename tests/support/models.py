"""Tiny models of every kind, seeded and fully perturbed, and batches to feed them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from transformers_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerEncoder,
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerHybridForCTC,
    FastConformerModel,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
    ParakeetTDTForCTC,
    ParakeetTDTForTDT,
)

ENCODER_SHAPE: dict[str, Any] = {
    "num_mel_bins": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "subsampling_conv_channels": 4,
    "conv_kernel_size": 5,
}
VOCAB_SIZE = 11
BLANK = VOCAB_SIZE - 1
HEAD_SHAPE: dict[str, Any] = {**ENCODER_SHAPE, "vocab_size": VOCAB_SIZE}
# Prediction and joint network of other widths than the encoder and than each other.
TRANSDUCER_SHAPE: dict[str, Any] = {**HEAD_SHAPE, "decoder_hidden_size": 12, "joint_hidden_size": 14}
HYBRID_SHAPE: dict[str, Any] = {**TRANSDUCER_SHAPE, "has_ctc_head": True}
STATELESS_SHAPE: dict[str, Any] = {**TRANSDUCER_SHAPE, "decoder_type": "stateless", "decoder_context_size": 2}

# kind: class, configuration class, configuration
KINDS: dict[str, tuple[type[PreTrainedModel], type[FastConformerConfig], dict[str, Any]]] = {
    "encoder": (FastConformerEncoder, FastConformerConfig, ENCODER_SHAPE),
    "model": (FastConformerModel, FastConformerConfig, ENCODER_SHAPE),
    "ctc": (FastConformerForCTC, FastConformerCTCConfig, HEAD_SHAPE),
    "rnnt": (FastConformerForRNNT, FastConformerRNNTConfig, TRANSDUCER_SHAPE),
    "rnnt_two_layers": (FastConformerForRNNT, FastConformerRNNTConfig, {**TRANSDUCER_SHAPE, "num_decoder_layers": 2}),
    "rnnt_hybrid": (FastConformerForRNNT, FastConformerRNNTConfig, HYBRID_SHAPE),
    "rnnt_stateless": (FastConformerForRNNT, FastConformerRNNTConfig, STATELESS_SHAPE),
    "tdt": (FastConformerForTDT, FastConformerTDTConfig, TRANSDUCER_SHAPE),
    "tdt_far": (FastConformerForTDT, FastConformerTDTConfig, {**TRANSDUCER_SHAPE, "durations": [0, 2, 4, 8]}),
    "tdt_hybrid": (ParakeetTDTForTDT, FastConformerTDTConfig, HYBRID_SHAPE),
    "tdt_hybrid_ctc": (ParakeetTDTForCTC, FastConformerTDTConfig, HYBRID_SHAPE),
    "rnnt_hybrid_ctc": (FastConformerHybridForCTC, FastConformerRNNTConfig, HYBRID_SHAPE),
}
HEADS = tuple(kind for kind in KINDS if kind not in ("encoder", "model"))
TRANSDUCERS = tuple(kind for kind in HEADS if not kind.endswith("ctc"))
CTC_HEADS = tuple(kind for kind in HEADS if kind.endswith("ctc"))
# Each network and each way to inherit once; the other kinds put the same parts together in another way.
FEW_KINDS = ("encoder", "model", "ctc", "rnnt_stateless", "tdt", "tdt_hybrid", "tdt_hybrid_ctc")


def few_of(kinds: Iterable[str]) -> list[Any]:
    """Parameters of a test that holds for every kind: those outside of `FEW_KINDS` are `slow`."""
    return [pytest.param(kind, marks=[] if kind in FEW_KINDS else pytest.mark.slow) for kind in kinds]


def build_config(kind: str, **overrides: Any) -> Any:
    """The tiny configuration of a kind, with some values replaced."""
    _, config_class, shape = KINDS[kind]
    return config_class(**{**shape, **overrides})


def build_model(kind: str, seed: int = 0, **overrides: Any) -> Any:
    """A tiny model in evaluation mode, every weight and batch-norm statistic of which is random."""
    model = KINDS[kind][0](build_config(kind, **overrides)).eval()
    perturb_weights(model, seed)
    return model


def perturb_weights(module: torch.nn.Module, seed: int = 0) -> None:
    """Make every parameter and floating buffer random; the embedding of the blank stays 0, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif name.endswith(("bias_u", "bias_v")):
                tensor.copy_(noise)
            elif tensor.ndim <= 1:
                tensor.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
            else:
                tensor.copy_(1.5 * noise / math.sqrt(math.prod(tensor.shape[1:])))
        for child in module.modules():
            if isinstance(child, torch.nn.Embedding) and child.padding_idx is not None:
                child.weight[child.padding_idx] = 0.0


def make_features(lengths: list[int], seed: int = 0, padded_frames: int | None = None) -> torch.Tensor:
    """Random features (batch, mel frames, 8) for clips of these lengths, with loud noise where the padding is."""
    generator = torch.Generator().manual_seed(seed)
    num_frames = max(lengths) if padded_frames is None else padded_frames
    features = 100.0 * torch.randn(len(lengths), num_frames, ENCODER_SHAPE["num_mel_bins"], generator=generator)
    for clip, length in enumerate(lengths):
        # Of the clip's own generator, so that a clip is the same whatever stands beside it.
        own = torch.Generator().manual_seed(1000 * seed + length)
        features[clip, :length] = torch.randn(length, ENCODER_SHAPE["num_mel_bins"], generator=own)
    return features
