"""Transcript of one clip, made of the output of decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..audio.voice_activity import SpeechSegment
from ..processing_outputs import FastConformerTranscription
from .options import TranscriptionOptions
from .strategy import ChosenStrategy
from .text_language import find_language


@dataclass
class Transcript:
    """
    Transcript of one clip.

    Args:
        text: The words that were said.
        timestamps: Level (`"token"`, `"char"`, `"word"`, `"segment"`; of multitask models one or both of the last)
            to a list of items with `start_offset` and `end_offset` in encoder frames, `start` and `end` in seconds,
            never after the end of the clip; None if times were not asked for.
        duration_seconds: Length of the clip.
        strategy: Strategy that was used: `"full"`, `"local"` or `"chunked"`, see [`ChunkOptions`].
        strategy_reason: One line that says why `"auto"` chose it; empty where the caller chose.
        channel: Channel of the file, from 0, or `"mix"` for the mean of all.
        confidence: Confidence in the whole text, 0 to 1; None if it was not asked for.
        word_confidences: Confidence in each word of the text, in order; None if it was not asked for.
        speech: Segments of the clip in which something is said, in seconds; None if voice activity detection was not
            asked for.
        token_ids: Ids of the tokens of the text; None where windows of a multitask model were joined.
        token_confidences: Confidence in each of them; None if it was not asked for.
        events: Event tokens such as `<EOU>` with their times, under the name `"event"`.
        language: Language of the text, an ISO 639-1 code, where it was asked for; items of `"segment"` then have a
            `"language"` of their own. None: it was not asked for, or the text has no letters.
    """

    text: str
    timestamps: dict[str, list[dict[str, Any]]] | None
    duration_seconds: float
    strategy: str = "full"
    channel: int | str = "mix"
    confidence: float | None = None
    word_confidences: list[float] | None = None
    speech: list[SpeechSegment] | None = None
    token_ids: list[int] | None = None
    events: list[dict[str, Any]] | None = None
    strategy_reason: str = ""
    language: str | None = None
    token_confidences: list[float] | None = None

    @classmethod
    def of(
        cls,
        transcription: FastConformerTranscription,
        duration_seconds: float,
        options: TranscriptionOptions,
        chosen: ChosenStrategy,
        speech: list[SpeechSegment] | None = None,
    ) -> Transcript:
        """Make a transcript of the processor's output for a clip and of what else is known of the clip."""
        timestamps = transcription.timestamps if options.timestamps else None
        text = transcription.text or ""
        language = None
        if options.detect_language:
            among = options.decoding.codes_of_text
            language = find_language(text, among)
            if timestamps is not None and "segment" in timestamps:
                segments = [
                    {**item, "language": find_language(item["segment"], among)} for item in timestamps["segment"]
                ]
                timestamps = {**timestamps, "segment": segments}
        return cls(
            text=text,
            timestamps=None
            if timestamps is None
            else {level: _end_with_clip(items, duration_seconds) for level, items in timestamps.items()},
            duration_seconds=duration_seconds,
            strategy=chosen.name,
            strategy_reason=chosen.reason,
            confidence=transcription.confidence,
            word_confidences=transcription.word_confidences,
            speech=speech,
            token_ids=transcription.token_ids,
            token_confidences=transcription.token_confidences,
            language=language,
            events=None if transcription.events is None else _end_with_clip(transcription.events, duration_seconds),
        )


def _end_with_clip(items: list[dict[str, Any]], duration_seconds: float) -> list[dict[str, Any]]:
    """Times that lie in the clip: its last encoder frame goes beyond its last sample. Offsets stay what they are."""
    return [{**item, **{key: min(item[key], duration_seconds) for key in ("start", "end")}} for item in items]


def to_transcripts(
    transcriptions: Sequence[FastConformerTranscription],
    durations_seconds: Sequence[float],
    options: TranscriptionOptions,
    chosen: ChosenStrategy,
) -> list[Transcript]:
    """Make transcripts of whole clips, with the times and confidences that are asked for."""
    return [
        Transcript.of(item, duration_seconds, options, chosen)
        for item, duration_seconds in zip(transcriptions, durations_seconds, strict=True)
    ]
