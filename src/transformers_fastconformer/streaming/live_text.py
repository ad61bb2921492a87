"""Tokens of a live stream to its updates: text, words, and the ends of utterances, at which the text is committed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from ..decoding.hypotheses import Hypotheses
from ..processing_fastconformer import FastConformerProcessor
from .endpointing import BlankEndpointing, BlankState, EndpointEvent, EndpointingOptions
from .text import NewTokens, StreamEvent, StreamWord, TextState, TextStream


@dataclass(frozen=True)
class LiveTextState:
    """
    State of the text of a stream and of its utterances.

    Args:
        text: State of the text of the utterance.
        blanks: State of its end.
        has_text: True if the stream has committed text.
        is_between: True if an utterance has ended and the next one has no text yet.
        last_frame: Frame of the last token of the stream; None before the first.
    """

    text: TextState = field(default_factory=TextState)
    blanks: BlankState = field(default_factory=BlankState)
    has_text: bool = False
    is_between: bool = False
    last_frame: int | None = None


class LiveTextUpdate(NamedTuple):
    """See the fields of [`StreamUpdate`]."""

    committed: str
    tentative: str
    words: list[StreamWord]
    tentative_words: list[StreamWord]
    tokens: list[StreamEvent]
    endpoints: list[EndpointEvent]


class LiveText:
    """
    The rules by which tokens become updates, for the streams of an engine with the same options of endpointing.

    Args:
        processor: The checkpoint's.
        decoder_type: `"ctc"`, `"rnnt"` or `"tdt"`.
        confidence_aggregation: As in [`TextStream`].
        endpointing: Options of the ends of utterances; None: text is one utterance.

    Attributes:
        text: The rules of text and words.
    """

    def __init__(
        self,
        processor: FastConformerProcessor,
        decoder_type: str,
        confidence_aggregation: str | None,
        endpointing: EndpointingOptions | None,
    ) -> None:
        self.text = TextStream(processor, decoder_type, confidence_aggregation)
        self._endpointing: BlankEndpointing | None = None
        if endpointing is not None:
            tokenizer = processor.tokenizer
            ids = sorted(tokenizer.event_token_ids)
            names = dict(zip(ids, tokenizer.vocabulary_tokens(ids), strict=True))
            self._endpointing = BlankEndpointing(endpointing, processor.frame_seconds, names)

    def advance(
        self,
        state: LiveTextState,
        tokens: NewTokens,
        num_frames: int,
        following: NewTokens | None = None,
        is_last: bool = False,
        revised_confidence: float | None = None,
    ) -> tuple[LiveTextUpdate, LiveTextState]:
        """
        The update of new tokens, and the state for those that follow.

        Args:
            state: What the call before returned; `LiveTextState()` at the start.
            tokens: The new tokens.
            num_frames: Encoder frames of the stream that are decoded by now.
            following: Tokens after them that may still be revised.
            is_last: The utterance ends here.
            revised_confidence: New confidence in the last token before these; None: it is what it was.
        """
        if revised_confidence is not None:
            state = replace(state, text=self.text.revise_confidence(state.text, revised_confidence))
        endpoints: list[EndpointEvent] = []
        blanks = state.blanks
        num_before = blanks.num_tokens
        if self._endpointing is not None:
            endpoints, blanks = self._endpointing.advance(blanks, tokens.token_ids, tokens.frame_indices, num_frames)
        cuts = [end.num_tokens - num_before for end in endpoints if end.num_tokens is not None and end.is_end]
        pieces: list[str] = []
        words: list[StreamWord] = []
        events: list[StreamEvent] = []
        places: list[int | None] = [*cuts, None]
        for start, stop in zip([0, *cuts], places, strict=True):
            update, text = self.text.advance(state.text, _slice(tokens, start, stop), is_last or stop is not None)
            pieces.append(_separate(state, update.committed))
            words += update.words
            events += update.events
            state = replace(
                state,
                text=text,
                has_text=state.has_text or bool(pieces[-1]),
                is_between=stop is not None or (state.is_between and not pieces[-1]),
            )
        last_frame = int(tokens.frame_indices[-1]) if len(tokens.token_ids) else state.last_frame
        state = replace(state, blanks=blanks, last_frame=last_frame)
        if is_last:
            # The utterance has ended: silence after it ends none.
            state = replace(state, is_between=True, blanks=replace(blanks, last_frame=None))
        tentative, tentative_words = update.tentative, update.tentative_words
        if following is not None and len(following.token_ids) and not is_last:
            preview, _ = self.text.advance(state.text, following)
            tentative = preview.committed + preview.tentative
            tentative_words = [*preview.words, *preview.tentative_words]
        tentative = _separate(state, tentative)
        return LiveTextUpdate("".join(pieces), tentative, words, tentative_words, events, endpoints), state


def _separate(state: LiveTextState, text: str) -> str:
    """Text with a space before it, if it begins an utterance after another one."""
    needs_space = state.is_between and state.has_text and text and not text[0].isspace()
    return f" {text}" if needs_space else text


def _slice(tokens: NewTokens, start: int, stop: int | None) -> NewTokens:
    if start == 0 and stop is None:
        return tokens
    columns: dict[str, Any] = {
        name: None if (column := getattr(tokens, name)) is None else column[start:stop]
        for name in (item.name for item in fields(NewTokens))
    }
    return NewTokens(**columns)


def read_hypotheses(hypotheses: Hypotheses, row: int, first_frame: int) -> NewTokens:
    """The tokens of one clip of a batch, with frames counted from `first_frame`."""
    count = int(hypotheses.token_lengths[row])

    def column(values: Any) -> list[Any] | None:
        return None if values is None else values[row, :count].tolist()

    frames = [first_frame + frame for frame in hypotheses.frame_indices[row, :count].tolist()]
    return NewTokens(
        column(hypotheses.tokens) or [],
        frames,
        column(hypotheses.durations),
        column(hypotheses.log_probs),
        column(hypotheses.scores),
    )
