"""Plan of what a multitask model is to write: its prompt, levels of times, and the model that times the words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..decoding.options import DecodingOptions
from ..decoding.prompts import FLAGS, FORMATS, fill_prompt, prompt_ids
from ..processing_fastconformer import FastConformerProcessor
from ..processing_multitask import MULTITASK, multitask_levels
from ..processing_outputs import timestamp_levels
from .aligner import Aligner
from .clip_features import FrontEnd
from .options import TranscriptionOptions


@dataclass(frozen=True)
class MultitaskPlan:
    """
    All that follows from a multitask model and the options of a call, made once for it.

    Args:
        decoding: Options of decoding, with the ids of the context and the request for time tokens filled in.
        prompt: Ids of the prompt.
        target_lang: Language of the text.
        levels: Levels of times that are asked for and can be had.
        aligner: The model by which words get their times; None: they get none, or the multitask model writes them.
    """

    decoding: DecodingOptions
    prompt: tuple[int, ...]
    target_lang: str
    levels: tuple[str, ...]
    aligner: Aligner | None

    @property
    def has_word_times(self) -> bool:
        """True where windows have times next to their words."""
        return bool(self.decoding.timestamps) or self.aligner is not None


def is_multitask(model: Any) -> bool:
    """Tell a model with a prompted decoder from the others."""
    return getattr(model, "decoder_type", None) == MULTITASK


def plan_multitask(model: Any, processor: FastConformerProcessor, options: TranscriptionOptions) -> MultitaskPlan:
    """
    Plan a transcription.

    Raises:
        ValueError: for options that the model or its tokenizer does not have, and for a level of times by name that
            cannot be had.
    """
    decoding = options.decoding
    values = fill_prompt(model.config, decoding.prompt)
    tokenizer = processor.tokenizer
    target = tokenizer.language_of_text(values["target_lang"])
    if tokenizer.language_spans and target not in tokenizer.languages_of_text:
        raise ValueError(
            f"target_lang={values['target_lang']!r} is not supported by this model; expected one of "
            f"{tokenizer.languages_of_text}."
        )
    aligner = _choose_aligner(model, processor, options)
    writes_times = _can_write_times(model, processor, decoding)
    levels = _choose_levels(options, aligner is not None or writes_times, is_translation(model, decoding))
    changes: dict[str, Any] = {}
    if isinstance(decoding.context, str):
        changes["context"] = tuple(tokenizer.context_ids(decoding.context, values["target_lang"])) or None
    if aligner is not None:
        changes["timestamps"] = False
    elif levels and writes_times:
        changes["timestamps"] = True
    decoding = replace(decoding, **changes)
    ids = tuple(prompt_ids(model.config, decoding.prompt))
    return MultitaskPlan(decoding, ids, values["target_lang"], levels, aligner)


def choose_front_end(model: Any, processor: FastConformerProcessor, options: TranscriptionOptions) -> FrontEnd:
    """Extractors of features: of any model, and of the model that times its words."""
    aligner = _choose_aligner(model, processor, options) if is_multitask(model) else None
    return FrontEnd(processor, None if aligner is None else aligner.extractor)


def is_translation(model: Any, options: DecodingOptions) -> bool:
    """Tell translation from transcription."""
    return fill_prompt(model.config, options.prompt)["task"] == "translate"


def _choose_aligner(model: Any, processor: FastConformerProcessor, options: TranscriptionOptions) -> Aligner | None:
    """
    The model by which words get their times; None where no times are asked for, for translations, for checkpoints
    without one, and where decoding is asked for time tokens by name.
    """
    if model.times_model is None or not timestamp_levels(options.timestamps) or options.decoding.timestamps:
        return None
    return None if is_translation(model, options.decoding) else Aligner.of(model.times_model, processor)


def _can_write_times(model: Any, processor: FastConformerProcessor, options: DecodingOptions) -> bool:
    """Tell a model that can be asked for time tokens next to each word of a transcription."""
    config = model.config
    has_slot = "timestamps" in FORMATS[config.prompt_format] and FLAGS["timestamps"][0] in (
        config.prompt_token_ids or {}
    )
    is_wanted = options.timestamps is not False and not is_translation(model, options)
    return has_slot and processor.tokenizer.has_time_tokens and is_wanted


def _choose_levels(options: TranscriptionOptions, are_words_timed: bool, translates: bool) -> tuple[str, ...]:
    """
    Levels of times that a multitask model has, of those asked for: words and segments, or segments, which are windows.

    Raises:
        ValueError: for a level by name that the model does not have.
    """
    asked = options.timestamps
    levels = multitask_levels(timestamp_levels(asked), is_all=asked is True)
    if "word" not in levels or are_words_timed:
        return levels
    if asked is not True:
        reason = "a translation" if translates else "a model without time tokens"
        raise ValueError(
            f"timestamps={asked!r} is not supported for {reason}, whose words have no times; expected 'segment', True "
            "or False."
        )
    return tuple(level for level in levels if level != "word")
