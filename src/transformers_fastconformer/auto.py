"""Registration with the Auto classes of Transformers, done once, when the package is imported."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import transformers
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoProcessor, AutoTokenizer
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping

from .configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from .feature_extraction_fastconformer import FastConformerFeatureExtractor
from .modeling_fastconformer import FastConformerModel
from .modeling_fastconformer_ctc import FastConformerForCTC
from .modeling_fastconformer_hybrid import FastConformerHybridForCTC, ParakeetTDTForCTC
from .modeling_fastconformer_transducer import FastConformerForRNNT, FastConformerForTDT
from .processing_fastconformer import FastConformerProcessor
from .tokenization_fastconformer import FastConformerTokenizer


def _auto_model_class(name: str, task: str) -> type[_BaseAutoModelClass]:
    """The Auto class of that name; Transformers before 5.13 lacks some, then one of ours."""
    existing = getattr(transformers, name, None)
    if existing is not None:
        return existing
    mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())
    return type(name, (_BaseAutoModelClass,), {"_model_mapping": mapping, "__doc__": f"Auto class for {task}."})


AutoModelForTDT = _auto_model_class("AutoModelForTDT", "token-and-duration transducers")
AutoModelForRNNT = _auto_model_class("AutoModelForRNNT", "RNN transducers")


def register() -> None:
    """Make the Auto classes know every configuration and class of this package. Doing it again changes nothing."""
    configs = (FastConformerConfig, FastConformerCTCConfig, FastConformerRNNTConfig, FastConformerTDTConfig)
    for config_class in configs:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        # Not `AutoModel.register`: it wants one model class for each configuration, and the bare model fits them all.
        bare_models: Any = AutoModel._model_mapping
        bare_models.register(config_class, FastConformerModel, exist_ok=True)
        AutoFeatureExtractor.register(config_class, FastConformerFeatureExtractor, exist_ok=True)
        AutoTokenizer.register(config_class, fast_tokenizer_class=FastConformerTokenizer, exist_ok=True)
        AutoProcessor.register(config_class, FastConformerProcessor, exist_ok=True)
    AutoModelForCTC.register(FastConformerCTCConfig, FastConformerForCTC, exist_ok=True)
    AutoModelForCTC.register(FastConformerRNNTConfig, FastConformerHybridForCTC, exist_ok=True)
    AutoModelForCTC.register(FastConformerTDTConfig, ParakeetTDTForCTC, exist_ok=True)
    AutoModelForRNNT.register(FastConformerRNNTConfig, FastConformerForRNNT, exist_ok=True)
    AutoModelForTDT.register(FastConformerTDTConfig, FastConformerForTDT, exist_ok=True)


register()
