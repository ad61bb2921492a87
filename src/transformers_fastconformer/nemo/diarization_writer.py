"""A Sortformer as NeMo's: the sections of its configuration after the encoder."""

from __future__ import annotations

from typing import Any

import torch

from ..checkpoints.key_table import Map
from ..configuration_diarization import FastConformerDiarizationConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from .multitask_writer import transformer_layers
from .sections.diarization import SORTFORMER_MODULES

Section = dict[str, Any]

DIARIZATION_CLASS = "nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel"
UNREAD_LAYER = "sortformer_modules.hidden_to_spks"
MODULES = "nemo.collections.asr.modules"


def diarization_sections(config: FastConformerDiarizationConfig, extractor: FastConformerFeatureExtractor) -> Section:
    """
    The keys that say what stands after the encoder.

    Args:
        config: The model.
        extractor: Its feature extractor, which knows how an offline model scales a clip.
    """
    widths = {"fc_d_model": config.output_size, "tf_d_model": config.transformer_hidden_size}
    modules = {
        key: getattr(config, str(row.targets)) for key, row in SORTFORMER_MODULES.items() if isinstance(row, Map)
    }
    scaling = extractor.peak_scaling
    return {
        "model_defaults": widths,
        "sortformer_modules": {**modules, **widths, "subsampling_factor": config.mel_frames_per_encoder_frame},
        "transformer_encoder": {
            **transformer_layers(config, "transformer_encoder"),
            "hidden_size": config.transformer_hidden_size,
            "num_layers": config.num_transformer_encoder_layers,
            "pre_ln_final_layer_norm": config.transformer_encoder_final_norm,
        },
        "max_num_of_spks": config.num_speakers,
        "streaming_mode": config.is_streaming,
        **({} if scaling is None else {"eps": scaling}),
    }


def unread_tensors(config: FastConformerDiarizationConfig) -> dict[str, torch.Tensor]:
    """Zeros for a layer that NeMo's class has and does not read, which the conversion leaves out."""
    shapes = {"weight": (config.num_speakers, 2 * config.transformer_hidden_size), "bias": (config.num_speakers,)}
    return {
        f"{UNREAD_LAYER}.{name}": torch.zeros(shape, dtype=torch.float32, device="cpu")
        for name, shape in shapes.items()
    }


def diarization_fillers() -> Section:
    """Keys that NeMo wants besides, and those that only matter to training."""
    transformer = f"{MODULES}.transformer.transformer_encoders.TransformerEncoder"
    return {
        "target": DIARIZATION_CLASS,
        "sortformer_modules": {"_target_": f"{MODULES}.sortformer_modules.SortformerModules"},
        "transformer_encoder": {"_target_": transformer, "mask_future": False},
        "loss": {"_target_": "nemo.collections.asr.losses.bce_loss.BCELoss", "weight": None, "reduction": "mean"},
        "ats_weight": 0.5,
        "pil_weight": 0.5,
    }
