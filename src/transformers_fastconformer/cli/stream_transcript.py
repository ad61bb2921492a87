"""Transcript of a live stream: what its updates said, in the form that the writers take."""

from __future__ import annotations

from typing import Any

from ..decoding.confidence import ConfidenceOptions, aggregate_confidence
from ..decoding.timestamps import Span, segment_spans
from ..frames import seconds_from_encoder_frames
from ..inference.transcript import Transcript
from ..processing_fastconformer import FastConformerProcessor
from ..streaming.text import StreamEvent, StreamWord
from ..streaming.updates import StreamUpdate


class StreamTranscript:
    """
    Text and words of a stream so far.

    Args:
        processor: The model's.
        mode: How the model streams, `"cached"` or `"buffered"`.
        channel: Channel of the audio.
        confidence: Options of confidences; None: they are not asked for.
    """

    def __init__(
        self,
        processor: FastConformerProcessor,
        mode: str,
        channel: str | int = "mix",
        confidence: ConfidenceOptions | None = None,
    ) -> None:
        self._processor = processor
        self._mode = mode
        self._channel = channel
        self._confidence = confidence
        self._pieces: list[str] = []
        self._words: list[StreamWord] = []
        self._events: list[StreamEvent] = []
        self.heard_seconds = 0.0

    @property
    def text(self) -> str:
        """The committed text."""
        return "".join(self._pieces)

    def add(self, update: StreamUpdate) -> None:
        """Note what an update says."""
        if update.committed:
            self._pieces.append(update.committed)
        self._words += update.words
        self._events += update.tokens
        self.heard_seconds = update.heard_seconds

    def finish(self) -> Transcript:
        """The transcript, with the times of words and segments."""
        confidences = [word.confidence for word in self._words if word.confidence is not None]
        is_confident = self._confidence is not None
        confidence = aggregate_confidence(confidences, self._confidence.aggregation) if self._confidence else None
        return Transcript(
            text=self.text,
            timestamps={
                "word": [self._item("word", word.text, word) for word in self._words],
                "segment": self._segments(),
            },
            duration_seconds=self.heard_seconds,
            strategy=self._mode,
            channel=self._channel,
            confidence=confidence,
            word_confidences=confidences if is_confident else None,
            events=[self._item("event", event.event, event) for event in self._events],
        )

    def _item(self, level: str, text: str, timed: StreamWord | StreamEvent) -> dict[str, Any]:
        """A word or an event as `batch_decode` has it, which does not end after the audio."""
        return {
            level: text,
            "start_offset": timed.start_offset,
            "end_offset": timed.end_offset,
            "start": min(timed.start, self.heard_seconds),
            "end": min(timed.end, self.heard_seconds),
        }

    def _segments(self) -> list[dict[str, Any]]:
        processor = self._processor
        spans = segment_spans(
            [Span(word.text, word.start_offset, word.end_offset) for word in self._words],
            segment_separators=processor.segment_separators,
            segment_gap_frames=processor.segment_gap_frames,
        )
        extractor, factor = processor.feature_extractor, processor.subsampling_factor

        def seconds(encoder_frames: int) -> float:
            found = seconds_from_encoder_frames(encoder_frames, extractor.hop_length, extractor.sampling_rate, factor)
            return min(float(found), self.heard_seconds)

        return [
            {
                "segment": span.text,
                "start_offset": span.start_offset,
                "end_offset": span.end_offset,
                "start": seconds(span.start_offset),
                "end": seconds(span.end_offset),
            }
            for span in spans
        ]
