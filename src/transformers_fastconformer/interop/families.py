"""The model types of Transformers that hold a FastConformer, each with the classes here that it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from ..configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..configuration_multitask import FastConformerMultitaskConfig


@dataclass(frozen=True)
class Family:
    """
    A model type of Transformers.

    Args:
        model_type: Its name in `config.json`.
        class_name: The class in `transformers` that saves and loads it.
        config_class_name: The configuration of that class.
        config_class: Our configuration.
        architecture: Our class.
        encoder_prefix: What stands before the names of the encoder's tensors in their files.
        encoder_type: The model type of the encoder's configuration.
        is_streaming: The encoder is the cache-aware one: causal, with layer norm and chunks of attention.
        has_prompts: The model is told the language.
    """

    model_type: str
    class_name: str
    config_class_name: str
    config_class: type[FastConformerConfig]
    architecture: str
    encoder_prefix: str = "encoder."
    encoder_type: str = "parakeet_encoder"
    is_streaming: bool = False
    has_prompts: bool = False

    @property
    def is_encoder_alone(self) -> bool:
        """The configuration is the encoder's own, with nothing around it."""
        return self.model_type == self.encoder_type

    @property
    def is_multitask(self) -> bool:
        """The decoder is a prompted transformer."""
        return issubclass(self.config_class, FastConformerMultitaskConfig)

    @property
    def tokenizer_class_name(self) -> str:
        """The class of its tokenizer."""
        return "TokenizersBackend" if self.is_multitask else "ParakeetTokenizer"


STREAMING_ENCODER = "nemotron_asr_streaming_encoder"

FAMILIES: tuple[Family, ...] = (
    Family(
        "parakeet_encoder",
        "ParakeetEncoder",
        "ParakeetEncoderConfig",
        FastConformerConfig,
        "FastConformerModel",
        encoder_prefix="",
    ),
    Family("parakeet_ctc", "ParakeetForCTC", "ParakeetCTCConfig", FastConformerCTCConfig, "FastConformerForCTC"),
    Family("parakeet_rnnt", "ParakeetForRNNT", "ParakeetRNNTConfig", FastConformerRNNTConfig, "FastConformerForRNNT"),
    Family("parakeet_tdt", "ParakeetForTDT", "ParakeetTDTConfig", FastConformerTDTConfig, "FastConformerForTDT"),
    Family(
        STREAMING_ENCODER,
        "NemotronAsrStreamingEncoder",
        "NemotronAsrStreamingEncoderConfig",
        FastConformerConfig,
        "FastConformerModel",
        encoder_prefix="",
        encoder_type=STREAMING_ENCODER,
        is_streaming=True,
    ),
    Family(
        "nemotron_asr_streaming",
        "NemotronAsrStreamingForRNNT",
        "NemotronAsrStreamingConfig",
        FastConformerRNNTConfig,
        "FastConformerForRNNT",
        encoder_type=STREAMING_ENCODER,
        is_streaming=True,
    ),
    Family(
        "nemotron3_5_asr",
        "Nemotron3_5AsrForRNNT",
        "Nemotron3_5AsrConfig",
        FastConformerRNNTConfig,
        "FastConformerForRNNT",
        encoder_type=STREAMING_ENCODER,
        is_streaming=True,
        has_prompts=True,
    ),
    Family(
        "canary",
        "CanaryForConditionalGeneration",
        "CanaryConfig",
        FastConformerMultitaskConfig,
        "FastConformerForMultitask",
        encoder_prefix="model.encoder.",
    ),
)
FAMILY_OF_TYPE = {family.model_type: family for family in FAMILIES}
