"""
Text of a live stream: tokens that arrive a few at a time to text that only grows, and to words with times.

Pure functions of a state that is passed in and returned. All together they give the text and the words that the
processor has for all tokens at once; the work for a token does not depend on how many came before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from ..decoding.confidence import AGGREGATIONS, aggregate_confidence
from ..decoding.timestamps import DECODER_TYPES, token_offsets, with_punctuation_narrowed
from ..decoding.words import GroupedWord, WordRules, WordState, WordToken, group_words, revise_last_confidence
from ..frames import seconds_from_encoder_frames
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_character_map import text_from_bytes
from ..tokenization_fastconformer import LANGUAGE_TAG_PATTERN
from ..tokenization_piece_text import PieceTextState
from ..validation import require, require_choice

# The end of a text that may become a language tag, with the spaces before it, or spaces that a tag would delete.
UNFINISHED_TAG = re.compile(r"\s*(?:<(?:[a-z]{0,2}|[a-z]{2}-[A-Z]{0,2}))?\Z")
# Languages without spaces have no words; what is kept of a "word" is bounded all the same.
MAX_WORD_TOKENS = 512


@dataclass(frozen=True)
class NewTokens:
    """
    Tokens of a stream that decoding has added.

    Args:
        token_ids: Their ids, without blanks.
        frame_indices: Encoder frame of the stream in which each was emitted (CTC: its first).
        durations: Frames of each, for TDT.
        log_probs: Log-probability of each, where it is known.
        confidences: Confidence in each, where it was asked for.

    Raises:
        ValueError: for columns of different lengths.
    """

    token_ids: Sequence[int] = ()
    frame_indices: Sequence[int] = ()
    durations: Sequence[int] | None = None
    log_probs: Sequence[float] | None = None
    confidences: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in ("frame_indices", "durations", "log_probs", "confidences"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.token_ids):
                raise ValueError(f"{name} has {len(column)} values; expected one for each of {len(self.token_ids)}.")


class StreamWord(NamedTuple):
    """
    A word of a stream.

    Args:
        text: The word.
        start_offset, end_offset: Its first encoder frame, and the frame after its last one.
        start, end: The same in seconds.
        confidence: Confidence in it, joined over its tokens; None if it was not asked for.
        log_prob: Log-probability of all its tokens; None where it is not known.
    """

    text: str
    start_offset: int
    end_offset: int
    start: float
    end: float
    confidence: float | None = None
    log_prob: float | None = None


class StreamEvent(NamedTuple):
    """An event token such as `<EOU>`, with its frames and times as of [`StreamWord`]."""

    event: str
    start_offset: int
    end_offset: int
    start: float
    end: float


Timed = TypeVar("Timed", StreamWord, StreamEvent)


class TextUpdate(NamedTuple):
    """
    What new tokens changed.

    Args:
        committed: Text that is added to the committed text, which later tokens never change.
        tentative: Text that follows the committed text for now: both together are the text of all tokens so far.
        words: Words that are finished, each once.
        tentative_words: Words that are not finished, as they would be if nothing followed.
        events: New event tokens.
    """

    committed: str
    tentative: str
    words: list[StreamWord]
    tentative_words: list[StreamWord]
    events: list[StreamEvent]


@dataclass(frozen=True)
class TextState:
    """
    State of the text of a stream, of bounded size; `TextStream.start` gives the first one.

    Args:
        pieces: State of the text of tokens.
        space: A space that is deleted if punctuation follows.
        tail: Text that is deleted if it becomes a language tag.
        has_text: There is committed text.
        words: Words that are not finished.
        last_frame, last_duration: Those of the last token, None before the first.
        last_offsets: Its start and end.
        first_frame: Encoder frame of the stream before which no word starts.
    """

    pieces: PieceTextState = field(default_factory=PieceTextState)
    space: str = ""
    tail: str = ""
    has_text: bool = False
    words: WordState = field(default_factory=WordState)
    last_frame: int | None = None
    last_duration: int = 0
    last_offsets: tuple[int, int] = (0, 0)
    first_frame: int = 0


class TextStream:
    """
    The rules by which tokens of a checkpoint become text and words, for any number of streams.

    Args:
        processor: The checkpoint's.
        decoder_type: `"ctc"`, `"rnnt"` or `"tdt"`, which says what the frames of a token mean.
        confidence_aggregation: How the confidences of the tokens of a word become that of the word, as in
            [`ConfidenceOptions`]; None: confidences are not asked for.

    Raises:
        ValueError: for values that are not accepted, and for a tokenizer that deletes language tags by a pattern other
            than NeMo's own: of other patterns it is not known when a text cannot match any more.
    """

    def __init__(
        self, processor: FastConformerProcessor, decoder_type: str, confidence_aggregation: str | None = None
    ) -> None:
        require_choice("decoder_type", decoder_type, DECODER_TYPES)
        require_choice("confidence_aggregation", confidence_aggregation, (*AGGREGATIONS, None))
        tokenizer = processor.tokenizer
        pattern = tokenizer.language_tag_pattern
        expected = f"{LANGUAGE_TAG_PATTERN!r} or None in a stream"
        require(pattern in (None, LANGUAGE_TAG_PATTERN), "language_tag_pattern", pattern, expected)
        self.processor = processor
        self.tokenizer = tokenizer
        self.decoder_type = decoder_type
        self.confidence_aggregation = confidence_aggregation
        self._tag = re.compile(pattern) if pattern is not None else None
        characters = "".join(map(re.escape, sorted(tokenizer.punctuation)))
        self._space_before_punctuation = re.compile(rf"\s([{characters}])") if characters else None
        self._words = WordRules(
            tokenizer.word_rule,
            tokenizer.punctuation,
            processor.word_separator,
            lambda tokens: processor.word_text([token.token_id for token in tokens]),
            MAX_WORD_TOKENS,
        )
        self._token_texts: dict[int, str] = {}

    def start(self) -> TextState:
        """The state of a stream without tokens."""
        return TextState()

    def advance(
        self, state: TextState, tokens: NewTokens | None = None, is_last: bool = False
    ) -> tuple[TextUpdate, TextState]:
        """
        Text and words that new tokens add, and the state for those that follow.

        The state that is passed in does not change. So tokens that may still be revised can be shown too: what they
        would add is in the update of a call whose new state is dropped.

        Args:
            state: What the call before returned.
            tokens: The new tokens; None: nothing is new.
            is_last: No more follow: all text is committed, all words are finished.

        Raises:
            ValueError: for ids outside the vocabulary, and where durations or confidences are missing.
        """
        tokens = NewTokens() if tokens is None else tokens
        placed, state = self._place(state, tokens)
        event_ids = self.tokenizer.event_token_ids
        events = [
            StreamEvent(token.string, *self._times(token.start_offset, token.end_offset))
            for token in placed
            if token.token_id in event_ids
        ]
        spoken = [token for token in placed if token.token_id not in event_ids]
        committed, state = self._extend_text(state, [token.token_id for token in spoken])
        grouped, words = group_words(self._words, state.words, spoken, is_last)
        state = replace(state, words=words)
        tentative = self._rest_of_text(state)
        if is_last:
            return TextUpdate(committed + tentative, "", self._finish_words(grouped), [], events), TextState(
                first_frame=state.first_frame
            )
        unfinished, _ = group_words(self._words, words, (), is_last=True)
        update = TextUpdate(committed, tentative, self._finish_words(grouped), self._finish_words(unfinished), events)
        return update, state

    def revise_confidence(self, state: TextState, confidence: float) -> TextState:
        """The state with another confidence in the last token, which goes on in later frames."""
        return replace(state, words=revise_last_confidence(state.words, confidence))

    def end_by(self, timed: Timed, encoder_frames: int) -> Timed:
        """A word or an event with its times in audio of so many frames, beyond whose end a token may reach."""
        start_offset, end_offset = (min(offset, encoder_frames) for offset in (timed.start_offset, timed.end_offset))
        start, end = self._seconds(start_offset), self._seconds(end_offset)
        return timed._replace(start_offset=start_offset, end_offset=end_offset, start=start, end=end)

    # Tokens

    def _place(self, state: TextState, tokens: NewTokens) -> tuple[list[WordToken], TextState]:
        """The new tokens with their texts and times, in which the token before them counts."""
        token_ids = [int(token_id) for token_id in tokens.token_ids]
        if not token_ids:
            return [], state
        num_tokens = self.tokenizer.blank_token_id
        wrong = [token_id for token_id in token_ids if not 0 <= token_id < num_tokens]
        require(not wrong, "token_ids", wrong[:1], f"0 to {num_tokens - 1}")
        if self.confidence_aggregation is not None and tokens.confidences is None:
            raise ValueError("confidences: found None; expected some with a confidence_aggregation.")
        texts = [self._text_of_token(token_id) for token_id in token_ids]
        frames = [int(frame) for frame in tokens.frame_indices]
        durations = None if tokens.durations is None else [int(duration) for duration in tokens.durations]
        has_before = state.last_frame is not None
        if has_before:
            texts = ["", *texts]
            frames = [state.last_frame or 0, *frames]
            durations = None if durations is None else [state.last_duration, *durations]
        offsets = token_offsets(self.decoder_type, frames, durations)
        if has_before:
            offsets[0] = state.last_offsets
        else:
            # A token of CTC starts a frame before its own, and not before the audio that it is of.
            offsets[0] = (max(offsets[0][0], state.first_frame), offsets[0][1])
        offsets = with_punctuation_narrowed(self.decoder_type, offsets, texts, self.tokenizer.punctuation)
        state = replace(
            state,
            last_frame=frames[-1],
            last_duration=0 if durations is None else durations[-1],
            last_offsets=offsets[-1],
        )
        first = int(has_before)
        unknown = [None] * len(token_ids)
        columns = zip(
            token_ids,
            self.tokenizer.vocabulary_tokens(token_ids),
            texts[first:],
            offsets[first:],
            unknown if tokens.confidences is None else map(float, tokens.confidences),
            unknown if tokens.log_probs is None else map(float, tokens.log_probs),
            strict=True,
        )
        return [WordToken(*column[:3], *column[3], *column[4:]) for column in columns], state

    def _text_of_token(self, token_id: int) -> str:
        text = self._token_texts.get(token_id)
        if text is None:
            text = self._token_texts[token_id] = self.tokenizer.piece_text([token_id])
        return text

    # Text

    def _extend_text(self, state: TextState, token_ids: Sequence[int]) -> tuple[str, TextState]:
        """Text that tokens add for good, by the rules of [`FastConformerTokenizer.decode`] one after the other."""
        text, pieces = self.tokenizer.extend_piece_text(token_ids, state.pieces)
        text, space = self._delete_spaces(state.space + text)
        text, tail = self._delete_tags(state.tail + text)
        if self._tag is not None and not state.has_text:
            text = text.lstrip()
        has_text = state.has_text or bool(text)
        return text, replace(state, pieces=pieces, space=space, tail=tail, has_text=has_text)

    def _rest_of_text(self, state: TextState) -> str:
        """Text after the committed text if nothing follows."""
        text, _ = text_from_bytes(state.pieces.unfinished_bytes)
        text = "".join(self._delete_spaces(state.space + text))
        text = "".join(self._delete_tags(state.tail + text))
        if self._tag is None:
            return text
        return text.rstrip() if state.has_text else text.strip()

    def _delete_spaces(self, text: str) -> tuple[str, str]:
        """Text without spaces before punctuation, and a space at its end before which punctuation may follow."""
        if self._space_before_punctuation is None:
            return text, ""
        text = self._space_before_punctuation.sub(r"\1", text)
        return (text[:-1], text[-1:]) if text[-1:].isspace() else (text, "")

    def _delete_tags(self, text: str) -> tuple[str, str]:
        """Text without language tags, and the end of it that may belong to a tag."""
        if self._tag is None:
            return text, ""
        text = self._tag.sub("", text)
        unfinished = UNFINISHED_TAG.search(text)
        place = len(text) if unfinished is None else unfinished.start()
        return text[:place], text[place:]

    # Words

    def _finish_words(self, grouped: Sequence[GroupedWord]) -> list[StreamWord]:
        return [self._finish_word(word) for word in grouped]

    def _finish_word(self, word: GroupedWord) -> StreamWord:
        confidence = log_prob = None
        if self.confidence_aggregation is not None:
            confidences = [token.confidence for token in word.tokens if token.confidence is not None]
            confidence = aggregate_confidence(confidences, self.confidence_aggregation)
        log_probs = [token.log_prob for token in word.tokens if token.log_prob is not None]
        if log_probs and len(log_probs) == len(word.tokens):
            log_prob = sum(log_probs)
        return StreamWord(word.text, *self._times(word.start_offset, word.end_offset), confidence, log_prob)

    def _times(self, start_offset: int, end_offset: int) -> tuple[int, int, float, float]:
        """Start and end in encoder frames and in seconds."""
        return start_offset, end_offset, self._seconds(start_offset), self._seconds(end_offset)

    def _seconds(self, encoder_frames: int) -> float:
        extractor = self.processor.feature_extractor
        factor = self.processor.subsampling_factor
        return float(
            seconds_from_encoder_frames(encoder_frames, extractor.hop_length, extractor.sampling_rate, factor)
        )
