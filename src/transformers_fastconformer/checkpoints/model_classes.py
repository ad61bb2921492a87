"""Classes of this package that a checkpoint folder may name, and the tensors that they expect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from ..configuration_diarization import FastConformerDiarizationConfig
from ..configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..configuration_multitask import FastConformerMultitaskConfig
from ..configuration_pretraining import FastConformerPreTrainingConfig
from ..modeling.ctc import FastConformerForCTC
from ..modeling.diarization import FastConformerForDiarization
from ..modeling.encoder import FastConformerModel
from ..modeling.hybrid import ParakeetTDTForTDT
from ..modeling.multitask import FastConformerForMultitask
from ..modeling.pretraining import FastConformerForPreTraining
from ..modeling.transducer import FastConformerForRNNT, FastConformerForTDT

# By the name under `architectures` in `config.json`.
ARCHITECTURES: dict[str, type[PreTrainedModel]] = {
    model_class.__name__: model_class
    for model_class in (
        FastConformerModel,
        FastConformerForCTC,
        FastConformerForRNNT,
        FastConformerForTDT,
        ParakeetTDTForTDT,
        FastConformerForMultitask,
        FastConformerForDiarization,
        FastConformerForPreTraining,
    )
}
# By `model_type`.
CONFIG_CLASSES: dict[str, type[FastConformerConfig]] = {
    config_class.model_type: config_class
    for config_class in (
        FastConformerConfig,
        FastConformerCTCConfig,
        FastConformerRNNTConfig,
        FastConformerTDTConfig,
        FastConformerMultitaskConfig,
        FastConformerDiarizationConfig,
        FastConformerPreTrainingConfig,
    )
}


Config = TypeVar("Config")


def build_without_memory(model_class: Callable[[Config], PreTrainedModel], config: Config) -> PreTrainedModel:
    """Build a model whose tensors have shapes but no values."""
    with torch.device("meta"):
        return model_class(config)


def shapes_of(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor that a checkpoint of the model holds, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
