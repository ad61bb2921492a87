"""What was said in one clip, and how it is made of what decoding found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..audio.voice_activity import SpeechSegment
from ..modeling.outputs import FastConformerGenerateOutput
from ..processing_fastconformer import FastConformerProcessor, FastConformerTranscription
from .options import TranscriptionOptions


@dataclass
class Transcript:
    """
    What was said in one clip.

    Args:
        text: The transcript.
        timestamps: Level (`"token"`, `"char"`, `"word"`, `"segment"`) to a list of items with `start_offset` and
            `end_offset` in encoder frames, `start` and `end` in seconds; None if no times were asked for.
        duration_seconds: Length of the clip.
        strategy: How it was transcribed: `"full"`, `"local"` or `"chunked"`, see [`ChunkOptions`].
        channel: Which channel of the file it is, `"mix"` for their mean.
        confidence: How sure decoding was of the clip, and
        word_confidences: of each word of the text, in order; None if that was not asked for.
        speech: Where in the clip something is said, in seconds, by voice activity detection; None if that was not
            asked for.
    """

    text: str
    timestamps: dict[str, list[dict[str, Any]]] | None
    duration_seconds: float
    strategy: str = "full"
    channel: int | str = "mix"
    confidence: float | None = None
    word_confidences: list[float] | None = None
    speech: list[SpeechSegment] | None = None

    @classmethod
    def of(
        cls,
        transcription: FastConformerTranscription,
        duration_seconds: float,
        options: TranscriptionOptions,
        strategy: str,
        speech: list[SpeechSegment] | None = None,
    ) -> Transcript:
        """What the processor makes of a clip, with what is known of the clip besides."""
        return cls(
            text=transcription.text or "",
            timestamps=transcription.timestamps if options.timestamps else None,
            duration_seconds=duration_seconds,
            strategy=strategy,
            confidence=transcription.confidence,
            word_confidences=transcription.word_confidences,
            speech=speech,
        )


def to_transcripts(
    processor: FastConformerProcessor,
    output: FastConformerGenerateOutput,
    durations_seconds: Sequence[float],
    options: TranscriptionOptions,
    strategy: str,
) -> list[Transcript]:
    """What `transcribe_features` returns to texts, with the times and confidences asked for."""
    decoded: list[Any] = processor.batch_decode(
        output,
        timestamps=options.timestamps if options.timestamps else ["word"],
        confidence=options.decoding.confidence is not None,
    )
    return [
        Transcript.of(item, duration_seconds, options, strategy)
        for item, duration_seconds in zip(decoded, durations_seconds, strict=True)
    ]
