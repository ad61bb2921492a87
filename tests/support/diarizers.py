"""Small Sortformers with drawn weights, whose speakers speak now and then."""

from __future__ import annotations

from typing import Any

import torch

from transformers_fastconformer import (
    FastConformerDiarizationConfig,
    FastConformerFeatureExtractor,
    FastConformerForDiarization,
)

SHAPE: dict[str, Any] = {
    "num_mel_bins": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "subsampling_conv_channels": 4,
    "conv_kernel_size": 5,
    "num_speakers": 3,
    "transformer_hidden_size": 12,
    "num_transformer_encoder_layers": 2,
    "num_transformer_encoder_attention_heads": 2,
    "transformer_encoder_intermediate_size": 24,
    "is_streaming": True,
    "chunk_frames": 6,
    "left_context_frames": 1,
    "right_context_frames": 2,
    "queue_frames": 8,
    "update_frames": 7,
    "cache_frames": 15,
    "cache_silence_frames": 1,
}


def build_diarizer(**options: Any) -> FastConformerForDiarization:
    """A model whose speakers each speak in about a third of the frames of noise."""
    torch.manual_seed(0)
    model = FastConformerForDiarization(FastConformerDiarizationConfig(**{**SHAPE, **options})).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
        elif "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    features = make_features(400)
    with torch.no_grad():
        logits = model(features[None]).logits[0]
        scale = 3.0 / logits.std(dim=0)
        model.speaker_head.out_proj.weight.mul_(scale[:, None])
        bias = model.speaker_head.out_proj.bias
        bias.copy_((bias - logits.quantile(0.65, dim=0)) * scale)
    return model


def make_features(num_frames: int, seed: int = 1) -> torch.Tensor:
    """(frames, mels): stretches of other sounds, with noise."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(num_frames // 37 + 1, 8, generator=generator).repeat_interleave(37, dim=0)[:num_frames]
    return steps + 0.4 * torch.randn(num_frames, 8, generator=generator)


def make_extractor(**options: Any) -> FastConformerFeatureExtractor:
    """Features that the models read."""
    return FastConformerFeatureExtractor(**{"feature_size": 8, "normalize": None, **options})
