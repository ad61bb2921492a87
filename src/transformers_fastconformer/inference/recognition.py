"""Features of clips to texts, with any model that has a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..processing_fastconformer import FastConformerProcessor
from ..processing_outputs import FastConformerTranscription
from ..tokenization_decoding import compile_decoding
from .chunked import transcribe_features
from .clip_features import Clip
from .multitask import transcribe_multitask
from .multitask_plan import is_multitask
from .options import TranscriptionOptions
from .strategy import ChosenStrategy


def recognize(
    processor: FastConformerProcessor,
    clips: Sequence[Clip],
    chosen: ChosenStrategy,
    options: TranscriptionOptions,
    levels: bool | str | Sequence[str],
    batch_size: int | None = None,
    on_frames: Callable[[list[int]], None] | None = None,
) -> list[FastConformerTranscription]:
    """
    Transcribe clips by the strategy that was chosen for them.

    Args:
        processor: The model's.
        clips: Features of whole clips.
        chosen: Model and plan, see `choose_strategy`.
        options: How to transcribe.
        levels: Levels of times that are needed. A multitask model has those asked for in `options`.
        batch_size: Clips, or windows, that the encoder sees at a time; None: those chosen.
        on_frames: Called with the encoder frames of each clip that are done.
    """
    batch_size = chosen.batch_size if batch_size is None else batch_size
    decoding = compile_decoding(options.decoding, processor.tokenizer, chosen.model.is_told_language)
    options = replace(options, decoding=decoding)
    if is_multitask(chosen.model):
        return transcribe_multitask(chosen.model, processor, clips, chosen.cuts, batch_size, options, on_frames)
    output = transcribe_features(
        chosen.model, clips, chosen.plan, batch_size, options.decoding, on_frames, chosen.restarts
    )
    decoded: Any = processor.batch_decode(
        output,
        skip_special_tokens=options.skip_special_tokens,
        timestamps=levels,
        confidence=options.decoding.confidence is not None,
    )
    return decoded
