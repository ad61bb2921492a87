"""How encoder frames become tokens: one object for `generate`, files, the pipeline, the command and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..validation import require, require_count
from .confidence import ConfidenceOptions


@dataclass(frozen=True)
class DecodingOptions:
    r"""
    How to decode. A new option is a field here and the line that reads it.

    What only the model can tell, such as whether it knows a language, its `check_decoding` tells.

    Args:
        language: Code of the language of all clips, or one for each clip, for models with language prompts
            (`config.prompt_languages`); None is `config.default_language`.
        max_symbols_per_step: Most tokens on one frame, for transducers; None is `config.max_symbols_per_step`.
        confidence: Which confidences to work out; None: none.

    Raises:
        ValueError: for a value that no model accepts, naming the option.
    """

    language: str | Sequence[str] | None = None
    max_symbols_per_step: int | None = None
    confidence: ConfidenceOptions | None = None

    def __post_init__(self) -> None:
        language = self.language
        if language is not None and not isinstance(language, str):
            is_list = isinstance(language, Sequence) and all(isinstance(code, str) for code in language)
            require(is_list, "language", language, "the code of a language, one for each clip, or None")
        if self.max_symbols_per_step is not None:
            require_count("max_symbols_per_step", self.max_symbols_per_step)
        is_known = self.confidence is None or isinstance(self.confidence, ConfidenceOptions)
        require(is_known, "confidence", self.confidence, "ConfidenceOptions or None")


DEFAULT_DECODING = DecodingOptions()
