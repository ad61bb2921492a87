"""What the demonstration checkpoint is to each Auto class, and what it hears in its first clip."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
)

from transformers_fastconformer import (
    AutoModelForTDT,
    FastConformerFeatureExtractor,
    FastConformerForTDT,
    FastConformerModel,
    FastConformerProcessor,
    FastConformerTDTConfig,
    FastConformerTokenizer,
    ParakeetTDTForCTC,
)
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS

SPOKEN = "three one four one five nine"
CTC_LOSS_WEIGHT = 0.3
OTHER_CTC_LOSS_WEIGHT = 0.4  # that of the fixture `other_nemo_bytes`

# A published name that the tests give to a repository with this checkpoint, as the published one is made: a card of
# NeMo's library and a `.nemo`, no `config.json`.
PUBLISHED_NAME = "nvidia/parakeet-tdt-0.6b-v2"
CARD = b"""---
library_name: nemo
license: cc-by-4.0
language:
- en
pipeline_tag: automatic-speech-recognition
---
# Parakeet
"""
SPARE_FILES = {"README.md": CARD, ".gitattributes": b"*.nemo filter=lfs diff=lfs merge=lfs -text\n"}

CLASSES: dict[Any, type] = {
    AutoModelForTDT: FastConformerForTDT,
    AutoModelForCTC: ParakeetTDTForCTC,
    AutoModel: FastConformerModel,
    AutoConfig: FastConformerTDTConfig,
    AutoFeatureExtractor: FastConformerFeatureExtractor,
    AutoTokenizer: FastConformerTokenizer,
    AutoProcessor: FastConformerProcessor,
}

# One of each kind of thing that is loaded; where all classes go the same way, these stand for them.
FEW_CLASSES: dict[Any, type] = {
    auto_class: CLASSES[auto_class] for auto_class in (AutoModelForTDT, AutoConfig, AutoProcessor)
}


def transcribe(model: Any, processor: FastConformerProcessor) -> str:
    """The text of the first clip."""
    inputs = processor(read_audio(CLIP_PATHS[0]), sampling_rate=16000, return_tensors="pt")
    return processor.batch_decode(model.eval().generate(**inputs))[0]
