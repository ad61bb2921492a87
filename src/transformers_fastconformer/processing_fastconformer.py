"""Waveforms and transcripts to model inputs; what `generate()` returns to text with times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchEncoding, BatchFeature, ProcessorMixin
from transformers.utils import ModelOutput

from .checkpoint_sources import LoadsFromSources
from .decoding.confidence import aggregate_confidence, word_confidences
from .decoding.timestamps import (
    SEGMENT_SEPARATORS,
    Span,
    segment_spans,
    token_offsets,
    with_punctuation_narrowed,
    word_spans,
)
from .frames import seconds_from_encoder_frames
from .modeling.outputs import FastConformerGenerateOutput
from .tokenization_fastconformer import IGNORED_LABEL

TIMESTAMP_LEVELS = ("token", "char", "word", "segment")


@dataclass
class FastConformerTranscription(ModelOutput):
    """
    The text of one clip with its times.

    Args:
        text (`str`): The text, equal to what `decode` gives without times.
        timestamps (`dict[str, list[dict]]`):
            For each level asked for, its items in order: the text under the name of the level (`"token"`: the
            vocabulary string, `"char"`: the text of that token, `"word"`, `"segment"`), `start_offset` and
            `end_offset` in encoder frames, `start` and `end` in seconds, and `language` for the tokens of an
            aggregate tokenizer.
        events (`list[dict]`): Event tokens such as `<EOU>` with their times, under the name `"event"`.
        token_confidences (`list[float]`): How sure decoding was of each token.
        word_confidences (`list[float]`): The same of each word of the text, in order.
        confidence (`float`): The same of the clip.
    """

    text: str | None = None
    timestamps: dict[str, list[dict[str, Any]]] | None = None
    events: list[dict[str, Any]] | None = None
    token_confidences: list[float] | None = None
    word_confidences: list[float] | None = None
    confidence: float | None = None


class FastConformerProcessor(LoadsFromSources, ProcessorMixin):
    """
    Joins a [`FastConformerFeatureExtractor`] and a [`FastConformerTokenizer`].

    Args:
        feature_extractor ([`FastConformerFeatureExtractor`]): Waveform to log-mel.
        tokenizer ([`FastConformerTokenizer`]): Text to ids and back.
        subsampling_factor (`int`, defaults to 8):
            Mel frames that one encoder frame stands for, a reduction among the blocks included.
        word_separator (`str`, defaults to `" "`): Text that parts words where the vocabulary has no word marks.
        segment_separators (`list[str]`, *optional*): Endings of a segment; full stop, question and exclamation mark.
        segment_gap_frames (`int`, *optional*): Encoder frames of silence that end a segment too.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        subsampling_factor: int = 8,
        word_separator: str = " ",
        segment_separators: Sequence[str] = SEGMENT_SEPARATORS,
        segment_gap_frames: int | None = None,
    ):
        if subsampling_factor < 1:
            raise ValueError(f"subsampling_factor={subsampling_factor} is not supported; expected 1 or more.")
        self.subsampling_factor = subsampling_factor
        self.word_separator = word_separator
        self.segment_separators = list(segment_separators)
        self.segment_gap_frames = segment_gap_frames
        super().__init__(feature_extractor, tokenizer)

    @property
    def frame_seconds(self) -> float:
        """Seconds from one encoder frame to the next."""
        return self._seconds(1)

    def _seconds(self, encoder_frames: int) -> float:
        return float(
            seconds_from_encoder_frames(
                encoder_frames,
                self.feature_extractor.hop_length,
                self.feature_extractor.sampling_rate,
                self.subsampling_factor,
            )
        )

    def __call__(
        self,
        audio: Any = None,
        text: str | Sequence[str] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        language: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature | BatchEncoding:
        """
        Features of `audio`, with `labels` of `text` beside them; or the ids of `text` alone.

        Args:
            audio: What the feature extractor takes: arrays, tensors, lists of either.
            text (`str` or `list[str]`, *optional*): The transcripts.
            sampling_rate (`int`, *optional*): Rate of `audio`, in Hz; it must be the model's.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`; labels are then padded with -100.
            language (`str`, *optional*): Language of `text`, for aggregate tokenizers.
            kwargs: Further arguments of the feature extractor, or of the tokenizer for text alone.

        Raises:
            ValueError: for neither of the two, no text at all, and another number of texts than of clips.
        """
        if audio is None and text is None:
            raise ValueError("audio=None and text=None: expected at least one of them.")
        if text is not None and not isinstance(text, str) and len(text) == 0:
            raise ValueError("text=[] has no transcript; expected one a clip, or None.")
        text_kwargs = {} if language is None else {"language": language}
        if audio is None:
            if sampling_rate is not None:
                raise ValueError(f"sampling_rate={sampling_rate} needs audio; found text alone.")
            padding = {} if return_tensors is None else {"padding": True, "return_tensors": return_tensors}
            return self.tokenizer(text, **{**padding, **text_kwargs, **kwargs})
        features = self.feature_extractor(audio, sampling_rate=sampling_rate, return_tensors=return_tensors, **kwargs)
        if text is None:
            return features
        texts = [text] if isinstance(text, str) else list(text)
        num_clips = len(features["input_features"])
        if len(texts) != num_clips:
            raise ValueError(f"text has {len(texts)} transcripts for {num_clips} clips of audio; expected one a clip.")
        rows = self.tokenizer(texts, **text_kwargs)["input_ids"]
        if return_tensors is not None:
            longest = max(map(len, rows))
            rows = [row + [IGNORED_LABEL] * (longest - len(row)) for row in rows]
        labels = BatchFeature({"labels": rows}, tensor_type=return_tensors)["labels"]
        features["labels"] = labels.to(features["input_features"].device) if torch.is_tensor(labels) else labels
        return features

    @property
    def model_input_names(self) -> list[str]:
        return [*self.feature_extractor.model_input_names, "labels"]

    def decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Text of one clip, with its times if asked for; see `batch_decode` for the arguments.

        `token_ids` is a sequence of ids or the [`FastConformerGenerateOutput`] of a single clip.
        """
        if not isinstance(token_ids, FastConformerGenerateOutput):
            return self._decode_ids(self.tokenizer.decode, token_ids, *args, **kwargs)
        clips = len(token_ids.sequences) if token_ids.sequences is not None else 0
        if clips != 1:
            raise ValueError(f"token_ids: found the output of {clips} clips; expected one, or use batch_decode.")
        return self.batch_decode(token_ids, *args, **kwargs)[0]

    def batch_decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> list[str] | list[FastConformerTranscription]:
        """
        Text of each clip, with its times if asked for.

        Args:
            token_ids: Rows of ids, or the [`FastConformerGenerateOutput`] of `generate`, which times need.
            skip_special_tokens (`bool`, defaults to `True`): Leave event tokens such as `<EOU>` out of the text.
            timestamps (`bool`, `str` or `list[str]`, defaults to `False`):
                Levels of times: `"token"`, `"char"`, `"word"`, `"segment"`, several of them, or `True` for all.
            output_offsets (`bool`, defaults to `False`): The same as `timestamps=True`.
            confidence (`bool`, defaults to `False`):
                Confidences of tokens, words and the clip, for what `generate(..., confidence=...)` returned.

        Returns:
            `list[str]`, or with times or confidences `list[FastConformerTranscription]`.
        """
        if not isinstance(token_ids, FastConformerGenerateOutput):
            return self._decode_ids(self.tokenizer.batch_decode, token_ids, *args, **kwargs)
        return self._decode_output(token_ids, *args, **kwargs)

    @staticmethod
    def _decode_ids(
        decode: Any,
        token_ids: Any,
        skip_special_tokens: bool = True,
        timestamps: bool | str | Sequence[str] = False,
        output_offsets: bool = False,
        confidence: bool = False,
        **kwargs: Any,
    ) -> Any:
        if confidence:
            raise ValueError(
                "confidence=True: found token ids alone; expected what generate(..., confidence=...) returns."
            )
        if timestamp_levels(timestamps, output_offsets):
            raise ValueError(
                "timestamps: found token ids alone; expected what generate(..., return_dict_in_generate=True) returns."
            )
        return decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def _decode_output(
        self,
        output: FastConformerGenerateOutput,
        skip_special_tokens: bool = True,
        timestamps: bool | str | Sequence[str] = False,
        output_offsets: bool = False,
        confidence: bool = False,
    ) -> list[str] | list[FastConformerTranscription]:
        levels = timestamp_levels(timestamps, output_offsets)
        if output.sequences is None or output.sequence_lengths is None:
            raise ValueError("sequences, sequence_lengths: found None; expected what generate() returns.")
        rows = [
            row[:length]
            for row, length in zip(output.sequences.tolist(), output.sequence_lengths.tolist(), strict=True)
        ]
        texts = [self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]
        if not levels and not confidence:
            return texts
        transcriptions: list[dict[str, Any]] = [{"text": text} for text in texts]
        if levels:
            self._add_timestamps(transcriptions, rows, output, levels, skip_special_tokens)
        if confidence:
            self._add_confidences(transcriptions, rows, output, skip_special_tokens)
        return [FastConformerTranscription(**fields) for fields in transcriptions]

    def join_transcriptions(
        self,
        parts: Sequence[FastConformerTranscription],
        first_frames: Sequence[int],
        timestamps: bool | str | Sequence[str] = True,
        confidence_aggregation: str | None = None,
    ) -> FastConformerTranscription:
        """
        The parts of a recording, each transcribed on its own, as one transcription of the recording.

        Texts are joined with a space. Segments are those of all words together, so that a sentence may go on in the
        next part.

        Args:
            parts: What `batch_decode` returned for each part, in order; for segments it has words.
            first_frames: Encoder frame of the recording that each part begins with.
            timestamps: As in `batch_decode`; nothing that is not asked for is returned.
            confidence_aggregation: How the confidences of all tokens become that of the recording; None: there are
                none.
        """
        levels = timestamp_levels(timestamps)
        placed = list(zip(parts, first_frames, strict=True))
        timed: dict[str, list[dict[str, Any]]] = {}
        for level in levels:
            if level != "segment":
                timed[level] = [
                    self._move(item, frame) for part, frame in placed for item in (part.timestamps or {})[level]
                ]
        if "segment" in levels:
            words = [
                Span(item["word"], item["start_offset"] + frame, item["end_offset"] + frame)
                for part, frame in placed
                for item in (part.timestamps or {})["word"]
            ]
            segments = segment_spans(
                words, segment_separators=self.segment_separators, segment_gap_frames=self.segment_gap_frames
            )
            timed["segment"] = [self._item("segment", segment) for segment in segments]
        fields: dict[str, Any] = {}
        if confidence_aggregation is not None:
            confidences = [value for part in parts for value in part.token_confidences or []]
            fields = {
                "token_confidences": confidences,
                "word_confidences": [value for part in parts for value in part.word_confidences or []],
                "confidence": aggregate_confidence(confidences, confidence_aggregation),
            }
        return FastConformerTranscription(
            text=" ".join(part.text for part in parts if part.text),
            timestamps=timed if levels else None,
            events=[self._move(item, frame) for part, frame in placed for item in part.events or []],
            **fields,
        )

    def _move(self, item: dict[str, Any], frames: int) -> dict[str, Any]:
        """An item so many encoder frames later."""
        start_offset, end_offset = item["start_offset"] + frames, item["end_offset"] + frames
        return {
            **item,
            "start_offset": start_offset,
            "end_offset": end_offset,
            "start": self._seconds(start_offset),
            "end": self._seconds(end_offset),
        }

    def _add_timestamps(
        self,
        transcriptions: list[dict[str, Any]],
        rows: list[list[int]],
        output: FastConformerGenerateOutput,
        levels: Sequence[str],
        skip_special_tokens: bool,
    ) -> None:
        if output.frame_indices is None or output.decoder_type is None:
            raise ValueError("frame_indices, decoder_type: found None; timestamps need them.")
        frame_rows = output.frame_indices.tolist()
        duration_rows = output.durations.tolist() if output.durations is not None else None
        for clip, (row, transcription) in enumerate(zip(rows, transcriptions, strict=True)):
            durations = duration_rows[clip][: len(row)] if duration_rows is not None else None
            offsets = token_offsets(output.decoder_type, frame_rows[clip][: len(row)], durations)
            transcription["timestamps"], transcription["events"] = self._timestamps(
                row, offsets, output.decoder_type, levels, skip_special_tokens
            )

    def _add_confidences(
        self,
        transcriptions: list[dict[str, Any]],
        rows: list[list[int]],
        output: FastConformerGenerateOutput,
        skip_special_tokens: bool,
    ) -> None:
        if output.token_confidences is None or output.confidence_aggregation is None:
            raise ValueError("token_confidences: found None; confidences need generate(..., confidence=...).")
        tokenizer, aggregation = self.tokenizer, output.confidence_aggregation
        for row, values, transcription in zip(rows, output.token_confidences.tolist(), transcriptions, strict=True):
            kept = [
                (token_id, value)
                for token_id, value in zip(row, values[: len(row)], strict=True)
                if not (skip_special_tokens and token_id in tokenizer.event_token_ids)
            ]
            token_ids, confidences = [token_id for token_id, _ in kept], [value for _, value in kept]
            transcription["token_confidences"] = confidences
            transcription["word_confidences"] = word_confidences(
                tokenizer.vocabulary_tokens(token_ids),
                [tokenizer.piece_text([token_id]) for token_id in token_ids],
                confidences,
                tokenizer.word_rule,
                aggregation,
            )
            transcription["confidence"] = aggregate_confidence(confidences, aggregation)

    def _timestamps(
        self,
        token_ids: list[int],
        offsets: list[tuple[int, int]],
        decoder_type: str,
        levels: Sequence[str],
        skip_special_tokens: bool,
    ) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
        tokenizer = self.tokenizer
        text_of_token = {token_id: tokenizer.piece_text([token_id]) for token_id in set(token_ids)}
        token_texts = [text_of_token[token_id] for token_id in token_ids]
        offsets = with_punctuation_narrowed(decoder_type, offsets, token_texts, tokenizer.punctuation)
        tokens = tokenizer.vocabulary_tokens(token_ids)

        positions = list(range(len(token_ids)))
        event_ids = tokenizer.event_token_ids
        events = [self._item("event", Span(tokens[p], *offsets[p])) for p in positions if token_ids[p] in event_ids]
        if skip_special_tokens:
            positions = [p for p in positions if token_ids[p] not in event_ids]

        def text_of(word_positions: list[int]) -> str:
            text = tokenizer.piece_text([token_ids[positions[position]] for position in word_positions])
            # NeMo 3.0.0 fails to time the words of aggregate tokenizers; their words elsewhere are stripped.
            return text.strip() if tokenizer.text_rule == "aggregate" else text

        items: dict[str, list[dict[str, Any]]] = {}
        if "token" in levels:
            items["token"] = [self._item("token", Span(tokens[p], *offsets[p])) for p in positions]
        if "char" in levels:
            items["char"] = [self._item("char", Span(token_texts[p], *offsets[p])) for p in positions]
        if tokenizer.language_spans:
            for timed in items.values():
                for position, item in zip(positions, timed, strict=True):
                    item["language"] = tokenizer.language_of(token_ids[position])
        if "word" in levels or "segment" in levels:
            words = word_spans(
                [tokens[p] for p in positions],
                [token_texts[p] for p in positions],
                [offsets[p] for p in positions],
                text_of,
                word_rule=tokenizer.word_rule,
                punctuation=tokenizer.punctuation,
                word_separator=self.word_separator,
            )
            if "word" in levels:
                items["word"] = [self._item("word", word) for word in words]
            if "segment" in levels:
                segments = segment_spans(
                    words, segment_separators=self.segment_separators, segment_gap_frames=self.segment_gap_frames
                )
                items["segment"] = [self._item("segment", segment) for segment in segments]
        return items, events

    def _item(self, level: str, span: Span) -> dict[str, Any]:
        return {
            level: span.text,
            "start_offset": span.start_offset,
            "end_offset": span.end_offset,
            "start": self._seconds(span.start_offset),
            "end": self._seconds(span.end_offset),
        }


def timestamp_levels(timestamps: bool | str | Sequence[str], output_offsets: bool = False) -> tuple[str, ...]:
    """
    The levels asked for, in their fixed order.

    Raises:
        ValueError: for levels that there are not.
    """
    if timestamps is True or (output_offsets and timestamps is False):
        return TIMESTAMP_LEVELS
    if timestamps is False or timestamps is None:
        return ()
    asked = [timestamps] if isinstance(timestamps, str) else list(timestamps)
    unknown = [level for level in asked if level not in TIMESTAMP_LEVELS]
    if unknown or not asked:
        raise ValueError(f"timestamps={timestamps!r} is not supported; expected a bool or some of {TIMESTAMP_LEVELS}.")
    return tuple(level for level in TIMESTAMP_LEVELS if level in asked)
