"""Options of decoding as a caller gives them, with phrases and languages made into tokens of a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .decoding.options import DecodingOptions
from .decoding.phrase_boosting import CompiledPhrases, PhraseBoosting
from .tokenization_fastconformer import FastConformerTokenizer
from .tokenization_languages import compile_languages
from .tokenization_phrases import compile_phrases


def compile_decoding(
    decoding: DecodingOptions, tokenizer: FastConformerTokenizer, is_told_language: bool
) -> DecodingOptions:
    """
    The options with phrases and languages as tokens; all doors that have a tokenizer call it before they decode.

    Args:
        decoding: The options.
        tokenizer: The checkpoint's tokenizer.
        is_told_language: The model's `is_told_language`: True leaves `language` to the model.

    Raises:
        ValueError: as `compile_phrases` and `compile_languages`; for `languages` where the model is told its language,
            and for `language` together with it.
    """
    return _compile_languages(_compile_phrases(decoding, tokenizer), tokenizer, is_told_language)


def _compile_phrases(decoding: DecodingOptions, tokenizer: FastConformerTokenizer) -> DecodingOptions:
    boosting: Any = decoding.boosting
    if boosting is None or isinstance(boosting, CompiledPhrases):
        return decoding
    if isinstance(boosting, PhraseBoosting):
        return replace(decoding, boosting=compile_phrases(boosting, tokenizer))
    compiled = [compile_phrases(one, tokenizer) if isinstance(one, PhraseBoosting) else one for one in boosting]
    return replace(decoding, boosting=tuple(compiled))


def _compile_languages(
    decoding: DecodingOptions, tokenizer: FastConformerTokenizer, is_told_language: bool
) -> DecodingOptions:
    language, languages = decoding.language, decoding.languages
    if is_told_language:
        if languages is not None:
            raise ValueError(
                f"languages={languages!r} is not supported by a model that is told its language; expected language."
            )
        return decoding
    if language is not None and languages is not None:
        raise ValueError(
            f"language={language!r} and languages={languages!r} exclude one another; expected one of them."
        )
    compiled: Any
    if isinstance(language, str):
        compiled = compile_languages((language,), tokenizer)
    elif language is not None:
        compiled = tuple(compile_languages((code,), tokenizer) for code in language)
    elif isinstance(languages, tuple) and isinstance(languages[0], str):
        compiled = compile_languages(languages, tokenizer)
    else:
        compiled = languages
    return replace(decoding, language=None, languages=compiled)
