"""The processor: waveforms and transcripts to model inputs, and outputs of `generate()` to text with times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, BatchFeature, ProcessorMixin

from .checkpoint_sources import LoadsFromSources
from .decoding.confidence import aggregate_confidence, word_confidences
from .decoding.prompts import FORMATS
from .decoding.timestamps import (
    SEGMENT_SEPARATORS,
    Span,
    segment_spans,
    token_offsets,
    with_punctuation_narrowed,
    word_spans,
)
from .feature_extraction_fastconformer import FastConformerFeatureExtractor
from .frames import seconds_from_encoder_frames
from .modeling.outputs import FastConformerGenerateOutput
from .processing_labels import encode_labels, join_arguments, prompted_length
from .processing_multitask import (
    MULTITASK,
    PROMPT_ARGUMENTS,
    PromptWriter,
    TrainingTokens,
    multitask_levels,
    text_of_multitask,
    words_of_time_tokens,
)
from .processing_outputs import (
    ClipOutput,
    FastConformerTranscription,
    TimedItem,
    TimedToken,
    split_output,
    timestamp_levels,
    words_or_segments,
)
from .tokenization_fastconformer import IGNORED_LABEL, FastConformerTokenizer
from .validation import is_number, require, require_choice, require_count


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
        prompt_format (`str`, *optional*): Of a multitask model: format of its prompts, `"canary"` or `"canary2"`.
        prompt_defaults (`dict[str, Any]`, *optional*): Of a multitask model: values of slots that are not said.
        learns_prompt (`bool`, defaults to `True`): Of a multitask model: labels hold the tokens of the prompt; False:
            they are -100 there, as where NeMo's configuration has `use_loss_mask_for_prompt`.
    """

    def __init__(
        self,
        feature_extractor: FastConformerFeatureExtractor,
        tokenizer: FastConformerTokenizer,
        subsampling_factor: int = 8,
        word_separator: str = " ",
        segment_separators: Sequence[str] = SEGMENT_SEPARATORS,
        segment_gap_frames: int | None = None,
        prompt_format: str | None = None,
        prompt_defaults: Mapping[str, Any] | None = None,
        learns_prompt: bool = True,
    ):
        require_count("subsampling_factor", subsampling_factor)
        require(isinstance(word_separator, str), "word_separator", word_separator, "a text")
        is_list = isinstance(segment_separators, list | tuple) and all(isinstance(x, str) for x in segment_separators)
        require(is_list, "segment_separators", segment_separators, "a list of texts")
        is_gap = segment_gap_frames is None or is_number(segment_gap_frames)
        require(is_gap, "segment_gap_frames", segment_gap_frames, "a number of frames or None")
        require_choice("prompt_format", prompt_format, (None, *FORMATS))
        require_choice("learns_prompt", learns_prompt, (True, False))
        self.prompt_format = prompt_format
        self.prompt_defaults = None if prompt_defaults is None else dict(prompt_defaults)
        self.learns_prompt = learns_prompt
        self.subsampling_factor = subsampling_factor
        self.word_separator = word_separator
        self.segment_separators = list(segment_separators)
        self.segment_gap_frames = segment_gap_frames
        super().__init__(feature_extractor, tokenizer)

    @property
    def frame_seconds(self) -> float:
        """Seconds from one encoder frame to the next."""
        return self._seconds(1)

    def __call__(
        self,
        audio: Any = None,
        text: str | Sequence[str] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        language: str | None = None,
        audio_kwargs: Mapping[str, Any] | None = None,
        text_kwargs: Mapping[str, Any] | None = None,
        common_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature | BatchEncoding:
        """
        Features of `audio`, with the `labels` of `text` next to them; or only the ids of `text`.

        For a multitask model `text` becomes two tables, of which forward needs both: `decoder_input_ids`, prompt and
        text, and `labels`, for each of them the token after it, up to the end of the text. So nothing is shifted any
        more. (Of `labels` on their own forward would make the decoder's tokens, by a shift to the right; where the
        prompt is left out of the loss, it is not in the labels.)

        Args:
            audio: What the feature extractor takes: arrays, tensors, lists of either.
            text (`str` or `list[str]`, *optional*): The transcripts.
            sampling_rate (`int`, *optional*): Rate of `audio`, in Hz; it must be the model's.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`; labels are then padded with -100. Default: `"pt"`
                where there is audio, unless `padding` is `False`, and lists for text on its own.
            language (`str`, *optional*): Language of `text`, for aggregate tokenizers; for a multitask model that of
                the speech too.
            audio_kwargs (`dict`, *optional*): Further arguments of the feature extractor, such as `max_length` in
                samples.
            text_kwargs (`dict`, *optional*): Further arguments of the tokenizer, such as `max_length` in tokens with
                `truncation` or `padding="max_length"`.
            common_kwargs (`dict`, *optional*): Arguments of this call in a mapping.
            kwargs: Further arguments of the feature extractor, or of the tokenizer where there is only text; and for a
                multitask model, with audio and text, those of [`PromptOptions`] (`source_lang`, `target_lang`...).

        Raises:
            ValueError: for neither of the two, for an empty list of texts, for more or fewer texts than clips, and
                for an argument that is given twice with different values.
        """
        if audio is None and text is None:
            raise ValueError("audio=None and text=None: expected at least one of them.")
        is_text = text is None or isinstance(text, str | Sequence)
        require(is_text, "text", text, "a transcript, or a list of one for each clip")
        if text is not None and not isinstance(text, str) and len(text) == 0:
            raise ValueError("text=[] has no transcript; expected one a clip, or None.")
        named = {"sampling_rate": sampling_rate, "return_tensors": return_tensors, "language": language}
        given = {**{name: value for name, value in named.items() if value is not None}, **kwargs}
        given = join_arguments(given, "common_kwargs", common_kwargs)
        prompt: dict[str, Any] = {}
        if self.prompt_format is not None:
            prompt = {name: given.pop(name) for name in PROMPT_ARGUMENTS if name in given}
            is_used = audio is not None and text is not None
            require(is_used or not prompt, next(iter(prompt), ""), next(iter(prompt.values()), None), "audio and text")
        language = given.pop("language", None)
        of_text = join_arguments({} if language is None else {"language": language}, "text_kwargs", text_kwargs)
        if audio is None:
            for name, value in (("sampling_rate", given.get("sampling_rate")), ("audio_kwargs", audio_kwargs)):
                if value:
                    raise ValueError(f"{name}={value} needs audio; found only text.")
            of_text = join_arguments(given, "text_kwargs", of_text)
            padding = {"padding": True} if of_text.get("return_tensors") is not None else {}
            return self.tokenizer(text, **{**padding, **of_text})
        if text is not None:
            for name in ("max_length", "truncation"):
                if given.get(name):
                    raise ValueError(
                        f"{name}={given[name]} may be of samples or tokens; expected it in audio_kwargs or "
                        "text_kwargs."
                    )
            of_text = {"padding": given.get("padding"), **of_text}
        if of_text.get("return_tensors") is not None:
            given = join_arguments(given, "text_kwargs", {"return_tensors": of_text["return_tensors"]})
        of_audio = join_arguments(given, "audio_kwargs", audio_kwargs)
        if of_audio.get("padding", True) not in (False, "do_not_pad"):
            of_audio.setdefault("return_tensors", "pt")
        return_tensors = of_audio.get("return_tensors")
        features = self.feature_extractor(audio, **of_audio)
        if text is None:
            return features
        texts = [text] if isinstance(text, str) else list(text)
        num_clips = len(features["input_features"])
        if len(texts) != num_clips:
            raise ValueError(f"text has {len(texts)} transcripts for {num_clips} clips of audio; expected one a clip.")
        if self.prompt_format is None:
            rows, longest = encode_labels(self.tokenizer, texts, of_text)
            tables = {"labels": rows}
        else:
            written = PromptWriter(self, self.tokenizer, self.learns_prompt).write(texts, prompt)
            tables = {name: [getattr(row, name) for row in written] for name in TrainingTokens._fields}
            longest = prompted_length(tables["labels"], of_text)
        padding_ids = {"labels": IGNORED_LABEL, "decoder_input_ids": self.tokenizer.pad_token_id}
        for name, rows in tables.items():
            if return_tensors is not None:
                rows = [row + [padding_ids[name]] * (longest - len(row)) for row in rows]
            table = BatchFeature({name: rows}, tensor_type=return_tensors)[name]
            features[name] = table.to(features["input_features"].device) if torch.is_tensor(table) else table
        return features

    @property
    def prompt_token_ids(self) -> dict[str, int]:
        """Ids of the tokens that prompts are made of."""
        return self.tokenizer.prompt_token_ids

    @property
    def model_input_names(self) -> list[str]:
        of_text = ["labels"] if self.prompt_format is None else ["decoder_input_ids", "labels"]
        return [*self.feature_extractor.model_input_names, *of_text]

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = True,
        timestamps: bool | str | Sequence[str] = False,
        output_offsets: bool = False,
        confidence: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        Text of one clip, with its times if asked for; see `batch_decode` for the arguments.

        `token_ids` is a sequence of ids, the logits of a CTC head (frames, vocab_size), or the
        [`FastConformerGenerateOutput`] of a single clip.
        """
        if not isinstance(token_ids, FastConformerGenerateOutput):
            _check_only_text(timestamps, output_offsets, confidence)
            if _is_floating(token_ids):
                token_ids, kwargs = self._best_classes(token_ids, 2), {**kwargs, "group_tokens": True}
            return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)
        num_clips = len(token_ids.sequences) if token_ids.sequences is not None else 0
        if num_clips != 1:
            raise ValueError(f"token_ids: found the output of {num_clips} clips; expected one, or use batch_decode.")
        return self.batch_decode(token_ids, skip_special_tokens, timestamps, output_offsets, confidence, **kwargs)[0]

    def batch_decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = True,
        timestamps: bool | str | Sequence[str] = False,
        output_offsets: bool = False,
        confidence: bool = False,
        **kwargs: Any,
    ) -> list[str] | list[FastConformerTranscription]:
        """
        Text of each clip, with its times if asked for.

        Args:
            token_ids: The [`FastConformerGenerateOutput`] of `generate`, which times need; rows of ids, which may be
                tokens or the best classes of CTC frames (see `group_tokens` of [`FastConformerTokenizer.decode`]); or
                the logits of a CTC head (batch, frames, vocab_size), of which rows of -100 are padding.
            skip_special_tokens (`bool`, defaults to `True`): Leave event tokens such as `<EOU>` out of the text.
            timestamps (`bool`, `str` or `list[str]`, defaults to `False`):
                Levels of times: `"token"`, `"char"`, `"word"`, `"segment"`, several of them, or `True` for all. A
                multitask model has words and segments, where it wrote time tokens; where it did not, the clip is one
                segment.
            output_offsets (`bool`, defaults to `False`): The same as `timestamps=True`.
            confidence (`bool`, defaults to `False`):
                Confidences of tokens, words and the clip, for what `generate(..., confidence=...)` returned.
            kwargs: Further arguments of the tokenizer, for rows of ids, such as `group_tokens`.

        Returns:
            `list[str]`, or with times or confidences `list[FastConformerTranscription]`.
        """
        if not isinstance(token_ids, FastConformerGenerateOutput):
            _check_only_text(timestamps, output_offsets, confidence)
            if _is_floating(token_ids):
                token_ids, kwargs = self._best_classes(token_ids, 3), {**kwargs, "group_tokens": True}
            return self.tokenizer.batch_decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)
        require_choice("group_tokens", kwargs.pop("group_tokens", None), (None, False))  # they are tokens already
        if kwargs:
            raise TypeError(f"batch_decode() does not know {sorted(kwargs)} for what generate() returns.")
        is_multitask = token_ids.decoder_type == MULTITASK
        levels = timestamp_levels(timestamps, output_offsets)
        if is_multitask:
            levels = multitask_levels(levels, is_all=timestamps is True or output_offsets)
        clips = split_output(token_ids)
        if is_multitask:
            clips = [clip.below(self.tokenizer.blank_token_id) for clip in clips]
        texts = [self._text(clip, is_multitask, skip_special_tokens) for clip in clips]
        if not levels and not confidence:
            return texts
        transcriptions = []
        for clip, text in zip(clips, texts, strict=True):
            hidden_ids = self.tokenizer.hidden_token_ids if skip_special_tokens else frozenset()
            token_ids_of_text = [token_id for token_id in clip.token_ids if token_id not in hidden_ids]
            fields: dict[str, Any] = {"text": text, "token_ids": token_ids_of_text}
            if levels and is_multitask:
                fields |= self._times_of_time_tokens(clip, levels)
            elif levels:
                fields |= self._times(clip, token_ids.decoder_type, levels, skip_special_tokens)
            if confidence:
                fields |= self._confidences(clip, token_ids.confidence_aggregation, skip_special_tokens)
            transcriptions.append(FastConformerTranscription(**fields))
        return transcriptions

    def _best_classes(self, logits: Any, num_dimensions: int) -> torch.Tensor:
        """Best classes of the frames of a CTC head: (..., frames, classes) to (..., frames), the padding blank."""
        logits = torch.as_tensor(logits, device=getattr(logits, "device", "cpu"))
        num_classes = self.tokenizer.blank_token_id + 1
        if logits.ndim != num_dimensions or logits.shape[-1] != num_classes:
            expected = f"{'(batch, frames' if num_dimensions == 3 else '(frames'}, {num_classes})"
            raise ValueError(
                f"token_ids is a floating-point array of shape {tuple(logits.shape)}; expected ids, or the logits of "
                f"a CTC head of shape {expected}."
            )
        is_padding = (logits == IGNORED_LABEL).all(dim=-1)  # as `Trainer` pads
        return logits.argmax(dim=-1).masked_fill(is_padding, self.tokenizer.blank_token_id)

    def join_transcriptions(
        self,
        parts: Sequence[FastConformerTranscription],
        first_frames: Sequence[int],
        timestamps: bool | str | Sequence[str] = True,
        confidence_aggregation: str | None = None,
    ) -> FastConformerTranscription:
        """
        Join the parts of a recording, each transcribed on its own, to one transcription of the recording.

        Texts are joined with a space. Segments are those of all words together, so that a sentence may go on in the
        next part.

        Args:
            parts: What `batch_decode` returned for each part, in order; for segments it has words.
            first_frames: Encoder frame of the recording that each part begins with.
            timestamps: As in `batch_decode`; nothing that is not asked for is returned.
            confidence_aggregation: How the confidences of all tokens become that of the recording; None: there are
                none.
        """

        def moved(items_of_parts: Sequence[Sequence[TimedItem]]) -> list[TimedItem]:
            placed = zip(items_of_parts, first_frames, strict=True)
            return [self._move(item, frame) for items, frame in placed for item in items]

        levels = timestamp_levels(timestamps)
        if timestamps is True and parts:  # all that there are
            levels = tuple(level for level in levels if all(level in (part.timestamps or {}) for part in parts))
        timed: dict[str, list[TimedItem]] = {}
        for level in levels:
            if level == "segment" and all("word" in (part.timestamps or {}) for part in parts):
                words = moved([words_or_segments(part) for part in parts])
                spans = [Span(word["word"], word["start_offset"], word["end_offset"]) for word in words]
                timed[level] = self.timed_items(level, self.segment_words(spans))
            else:
                timed[level] = moved([(part.timestamps or {})[level] for part in parts])
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
            events=moved([part.events or [] for part in parts]),
            token_ids=[token_id for part in parts for token_id in part.token_ids or []],
            **fields,
        )

    # Times

    def _text(self, clip: ClipOutput, is_multitask: bool, skip_special_tokens: bool) -> str:
        """Text of a clip; that of a multitask model without times and the spaces around it."""
        if is_multitask and skip_special_tokens:
            return text_of_multitask(self.tokenizer, clip.token_ids, clip.num_frames)
        return self.tokenizer.decode(clip.token_ids, skip_special_tokens=skip_special_tokens)

    def _times_of_time_tokens(self, clip: ClipOutput, levels: Sequence[str]) -> dict[str, Any]:
        """The fields `timestamps` and `events` of a clip of a multitask model."""
        words = words_of_time_tokens(self.tokenizer, clip.token_ids, clip.num_frames)
        segments = self.segment_words(words)
        if not words and clip.num_frames and (text := self._text(clip, True, True)):
            segments = [Span(text, 0, clip.num_frames)]  # without times a clip is one segment
        spans = {"word": words, "segment": segments}
        return {"timestamps": {level: self.timed_items(level, spans[level]) for level in levels}, "events": []}

    def _times(
        self, clip: ClipOutput, decoder_type: str | None, levels: Sequence[str], skip_special_tokens: bool
    ) -> dict[str, Any]:
        """The fields `timestamps` and `events` of a clip."""
        tokens = self._timed_tokens(clip, decoder_type)
        event_ids = self.tokenizer.event_token_ids
        events = [Span(token.string, *token.offsets) for token in tokens if token.token_id in event_ids]
        if skip_special_tokens:
            tokens = [token for token in tokens if token.token_id not in event_ids]
        spans = {
            "token": [Span(token.string, *token.offsets) for token in tokens],
            "char": [Span(token.text, *token.offsets) for token in tokens],
        }
        if "word" in levels or "segment" in levels:
            spans["word"] = self._words(tokens)
            spans["segment"] = self.segment_words(spans["word"])
        timed = {level: self.timed_items(level, spans[level]) for level in levels}
        if self.tokenizer.language_spans:
            for level in {"token", "char"}.intersection(levels):
                for item, token in zip(timed[level], tokens, strict=True):
                    item["language"] = self.tokenizer.language_of(token.token_id)
        return {"timestamps": timed, "events": self.timed_items("event", events)}

    def _timed_tokens(self, clip: ClipOutput, decoder_type: str | None) -> list[TimedToken]:
        if clip.frame_indices is None or decoder_type is None:
            raise ValueError("frame_indices, decoder_type: found None; timestamps need them.")
        tokenizer = self.tokenizer
        text_of_token = {token_id: tokenizer.piece_text([token_id]) for token_id in set(clip.token_ids)}
        texts = [text_of_token[token_id] for token_id in clip.token_ids]
        offsets = token_offsets(decoder_type, clip.frame_indices, clip.durations)
        offsets = with_punctuation_narrowed(decoder_type, offsets, texts, tokenizer.punctuation)
        strings = tokenizer.vocabulary_tokens(clip.token_ids)
        return [TimedToken(*fields) for fields in zip(clip.token_ids, strings, texts, offsets, strict=True)]

    def word_text(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens of one word."""
        text = self.tokenizer.piece_text(token_ids)
        # NeMo 3.0.0 fails to time the words of aggregate tokenizers; their words elsewhere are stripped.
        return text.strip() if self.tokenizer.text_rule == "aggregate" else text

    def _words(self, tokens: Sequence[TimedToken]) -> list[Span]:
        tokenizer = self.tokenizer
        return word_spans(
            [token.string for token in tokens],
            [token.text for token in tokens],
            [token.offsets for token in tokens],
            lambda positions: self.word_text([tokens[position].token_id for position in positions]),
            word_rule=tokenizer.word_rule,
            punctuation=tokenizer.punctuation,
            word_separator=self.word_separator,
        )

    def segment_words(self, words: Sequence[Span]) -> list[Span]:
        """Group words into segments by the processor's separators and gap."""
        return segment_spans(
            words, segment_separators=self.segment_separators, segment_gap_frames=self.segment_gap_frames
        )

    def timed_items(self, level: str, spans: Sequence[Span]) -> list[TimedItem]:
        """Items of a level of times, with frames and seconds."""
        return [{level: span.text, **self._when(span.start_offset, span.end_offset)} for span in spans]

    def _move(self, item: TimedItem, frames: int) -> TimedItem:
        """The item so many encoder frames later."""
        return {**item, **self._when(item["start_offset"] + frames, item["end_offset"] + frames)}

    def _when(self, start_offset: int, end_offset: int) -> dict[str, Any]:
        """Start and end of an item, in encoder frames and in seconds."""
        return {
            "start_offset": start_offset,
            "end_offset": end_offset,
            "start": self._seconds(start_offset),
            "end": self._seconds(end_offset),
        }

    def _seconds(self, encoder_frames: int) -> float:
        extractor = self.feature_extractor
        return float(
            seconds_from_encoder_frames(
                encoder_frames, extractor.hop_length, extractor.sampling_rate, self.subsampling_factor
            )
        )

    # Confidences

    def _confidences(self, clip: ClipOutput, aggregation: str | None, skip_special_tokens: bool) -> dict[str, Any]:
        """The fields `token_confidences`, `word_confidences` and `confidence` of a clip."""
        if clip.confidences is None or aggregation is None:
            raise ValueError("token_confidences: found None; confidences need generate(..., confidence=...).")
        tokenizer = self.tokenizer
        hidden_ids = tokenizer.hidden_token_ids if skip_special_tokens else frozenset()
        kept = [pair for pair in zip(clip.token_ids, clip.confidences, strict=True) if pair[0] not in hidden_ids]
        token_ids, confidences = [token_id for token_id, _ in kept], [value for _, value in kept]
        return {
            "token_confidences": confidences,
            "word_confidences": word_confidences(
                tokenizer.vocabulary_tokens(token_ids),
                [tokenizer.piece_text([token_id]) for token_id in token_ids],
                confidences,
                tokenizer.word_rule,
                aggregation,
            ),
            "confidence": aggregate_confidence(confidences, aggregation),
        }


def _is_floating(values: Any) -> bool:
    """True for arrays and tensors of floating-point numbers, which are logits and not ids."""
    if isinstance(values, torch.Tensor):
        return values.is_floating_point()
    return isinstance(values, np.ndarray) and values.dtype.kind == "f"


def _check_only_text(timestamps: bool | str | Sequence[str], output_offsets: bool, confidence: bool) -> None:
    """Raise a `ValueError` where more is asked for than token ids can tell."""
    if confidence:
        raise ValueError("confidence=True: found only token ids; expected what generate(..., confidence=...) returns.")
    if timestamp_levels(timestamps, output_offsets):
        raise ValueError(
            "timestamps: found only token ids; expected what generate(..., return_dict_in_generate=True) returns."
        )
