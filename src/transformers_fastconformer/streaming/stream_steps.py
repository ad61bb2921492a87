"""Steps of live streams: waiting features to encoder frames, tokens and text, for all ready streams together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from ..decoding.options import DecodingOptions
from ..decoding.state import with_phrase_states, without_phrase_states
from .chunk_encoders import ChunkEncoder, EncodedChunk
from .live_stream import LiveStream
from .live_text import read_hypotheses
from .text import NewTokens
from .updates import StreamUpdate


class _Decoded(NamedTuple):
    """
    Decoding of a chunk of one stream.

    Args:
        tokens: Those of the chunk.
        following: Those of the frames after it, which may still be revised; None: nothing follows.
        state: State of decoding after the chunk.
        revised_confidence: New confidence in the last token before these; None: it is what it was.
    """

    tokens: NewTokens
    following: NewTokens | None
    state: Any
    revised_confidence: float | None


class StreamSteps:
    """
    The steps of an engine's streams.

    Args:
        encoder: The encoder, which has the model.
        decoding: Options of decoding, without a language: the encoder mixes that in, stream by stream.
        default_language: Language of streams that do not name one.
    """

    def __init__(self, encoder: ChunkEncoder, decoding: DecodingOptions, default_language: str | None) -> None:
        self.encoder = encoder
        self.model = encoder.model
        self.decoding = decoding
        self.default_language = default_language
        self._start_state: Any = None

    def is_ready(self, stream: LiveStream, is_last: bool) -> bool:
        """Tell whether there is a step to do."""
        if stream.has_given_all or stream.failure is not None:
            return False
        if is_last:
            return True
        # Activities come after the sound, as a Sortformer looks ahead.
        needed = self.encoder.step_frames if stream.options.follows_speaker else 0
        is_told = stream.activities.shape[0] >= needed
        return is_told and stream.count_pending() >= self.encoder.wanted_mel_frames(stream.row)

    def run(self, streams: Mapping[int, LiveStream], is_last: bool) -> dict[int, StreamUpdate]:
        """
        Do a step of the encoder and of decoding.

        Args:
            streams: Streams that are ready, by their ids.
            is_last: They end with what waits.

        Returns:
            The update of each of them; none of those whose values are not finite, which have failed then.
        """
        config: Any = self.model.config
        chunks, are_last = {}, {}
        for stream in streams.values():
            wanted = self.encoder.wanted_mel_frames(stream.row)
            are_last[stream.row] = is_last and stream.count_pending() <= wanted
            if not stream.pending:
                stream.pending = [torch.zeros(0, config.num_mel_bins, dtype=torch.float32, device="cpu")]
            chunks[stream.row] = stream.take(wanted)
            stream.has_given_all = are_last[stream.row]
        languages = {stream.row: stream.options.language or self.default_language for stream in streams.values()}
        activities = {
            stream.row: stream.take_activities(self.encoder.step_frames)
            for stream in streams.values()
            if stream.options.follows_speaker
        }
        encoded = self.encoder.encode(chunks, are_last, languages, activities)
        decoded = self._decode(list(streams.values()), [encoded[stream.row] for stream in streams.values()])
        updates = {}
        for (stream_id, stream), found in zip(streams.items(), decoded, strict=True):
            if isinstance(found, ValueError):
                stream.failure = repr(found)
                continue
            stream.num_frames += encoded[stream.row].frames.shape[0]
            stream.decoder, stream.revised_confidence = found.state, found.revised_confidence
            stream.following = None if are_last[stream.row] else found.following
            updates[stream_id] = self.describe(stream, found.tokens, are_last[stream.row])
        return updates

    def describe(self, stream: LiveStream, tokens: NewTokens, is_last: bool) -> StreamUpdate:
        """Move the text of a stream on by new tokens."""
        found, stream.text = stream.text_rules.advance(
            stream.text, tokens, stream.decoded_frames, stream.following, is_last, stream.revised_confidence
        )
        stream.revised_confidence = None
        stream.shown = (found.tentative, found.tentative_words)
        return StreamUpdate(*found)

    def find_start(self, frames: torch.Tensor, has_phrases: bool = False) -> Any:
        """State of decoding at the start of a stream, for encoder frames like these."""
        if self._start_state is None:
            _, self._start_state = self.model.decode_frames(frames[:1, :1], _to_tensor([0], frames), self.decoding)
        return with_phrase_states(self._start_state) if has_phrases else self._start_state

    def _decode(
        self, streams: Sequence[LiveStream], chunks: Sequence[EncodedChunk]
    ) -> Sequence[_Decoded | ValueError]:
        """The decoding of each stream, or what is wrong with its values: one of them does not stop the others."""
        try:
            return self._decode_together(streams, chunks)
        except ValueError as error:  # of values that are not finite; no state has changed
            if len(streams) == 1:
                return [error]
        return [one for stream, chunk in zip(streams, chunks, strict=True) for one in self._decode([stream], [chunk])]

    def _decode_together(self, streams: Sequence[LiveStream], chunks: Sequence[EncodedChunk]) -> list[_Decoded]:
        """Tokens of the chunks, whose states are moved on, and those of what follows them, whose states are not."""
        frames = pad_sequence([chunk.frames for chunk in chunks], batch_first=True)
        if not frames.shape[1]:
            frames = pad(frames, (0, 0, 0, 1))
        lengths = [chunk.frames.shape[0] for chunk in chunks]
        phrases = [stream.phrases for stream in streams]
        states = [
            self.find_start(frames, stream.phrases is not None) if stream.decoder is None else stream.decoder
            for stream in streams
        ]
        decoding = self.decoding
        if has_phrases := any(one is not None for one in phrases):
            is_shared = all(one is phrases[0] for one in phrases)
            decoding = replace(decoding, boosting=phrases[0] if is_shared else tuple(phrases))
            states = [
                with_phrase_states(state) if own is None else state for own, state in zip(phrases, states, strict=True)
            ]
        joined = type(states[0]).concatenate(states)
        if self.encoder.restarts:
            forgotten = [
                place
                for place, (stream, chunk) in enumerate(zip(streams, chunks, strict=True))
                if stream.text.last_frame is not None
                and stream.text.last_frame < stream.first_frame + chunk.window_start
            ]
            if forgotten:
                joined = self.model.restart_clips(joined, frames, forgotten)
        hypotheses, joined = self.model.decode_frames(frames, _to_tensor(lengths, frames), decoding, joined)
        revised = getattr(joined, "revised_scores", None)
        scores = [math.nan] * len(streams) if revised is None else revised.tolist()
        following = None
        if any(chunk.following_frames.shape[0] for chunk in chunks):
            frames = pad_sequence([chunk.following_frames for chunk in chunks], batch_first=True)
            following_lengths = _to_tensor([chunk.following_frames.shape[0] for chunk in chunks], frames)
            following, _ = self.model.decode_frames(frames, following_lengths, decoding, joined)
        firsts = [stream.decoded_frames for stream in streams]
        after = [joined.select([place]) for place in range(len(streams))]
        if has_phrases:
            after = [
                without_phrase_states(state) if own is None else state
                for own, state in zip(phrases, after, strict=True)
            ]
        return [
            _Decoded(
                read_hypotheses(hypotheses, place, first),
                None if following is None else read_hypotheses(following, place, first + num_frames),
                after[place],
                None if math.isnan(score) else score,
            )
            for place, (first, num_frames, score) in enumerate(zip(firsts, lengths, scores, strict=True))
        ]


def _to_tensor(lengths: list[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(lengths, dtype=torch.int64, device=like.device)
