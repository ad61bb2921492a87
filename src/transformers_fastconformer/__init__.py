"""
NVIDIA's FastConformer speech models in Hugging Face Transformers, without NeMo.

Importing the package registers its classes with the Auto classes of Transformers.
"""

from .auto import AutoModelForRNNT, AutoModelForTDT
from .configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from .feature_extraction_fastconformer import FastConformerFeatureExtractor
from .modeling_fastconformer import FastConformerEncoder, FastConformerModel, FastConformerPreTrainedModel
from .modeling_fastconformer_ctc import FastConformerForCTC
from .modeling_fastconformer_hybrid import FastConformerHybridForCTC, ParakeetTDTForCTC, ParakeetTDTForTDT
from .modeling_fastconformer_transducer import FastConformerForRNNT, FastConformerForTDT
from .modeling_outputs import (
    FastConformerCTCOutput,
    FastConformerEncoderOutput,
    FastConformerGenerateOutput,
    FastConformerTransducerOutput,
)
from .processing_fastconformer import FastConformerProcessor, FastConformerTranscription
from .tokenization_fastconformer import FastConformerTokenizer
from .version import __version__

__all__ = [
    "AutoModelForRNNT",
    "AutoModelForTDT",
    "FastConformerCTCConfig",
    "FastConformerCTCOutput",
    "FastConformerConfig",
    "FastConformerEncoder",
    "FastConformerEncoderOutput",
    "FastConformerFeatureExtractor",
    "FastConformerForCTC",
    "FastConformerForRNNT",
    "FastConformerForTDT",
    "FastConformerGenerateOutput",
    "FastConformerHybridForCTC",
    "FastConformerModel",
    "FastConformerPreTrainedModel",
    "FastConformerProcessor",
    "FastConformerRNNTConfig",
    "FastConformerTDTConfig",
    "FastConformerTokenizer",
    "FastConformerTranscription",
    "FastConformerTransducerOutput",
    "ParakeetTDTForCTC",
    "ParakeetTDTForTDT",
    "__version__",
]
