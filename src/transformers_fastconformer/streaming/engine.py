"""
Live transcription: many streams on one model, advanced together.

The engine is driven by its caller and starts no threads. A lock makes its methods safe to call from several threads;
one at a time is served, as the model is one.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from ..audio.feature_stream import FeatureStream, push_streams
from ..audio.running_normalization import RunningNormalization
from ..audio.voice_activity import SpeechProbabilities
from ..decoding.hypotheses import Hypotheses
from ..frames import encoder_frames_from_seconds
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..validation import is_number, reading, require, require_count
from .chunk_encoders import EncodedChunk, build_chunk_encoder
from .endpointing import EndpointEvent, EndpointingOptions, VoiceEndpointing, VoiceState
from .live_stream import LiveStream, SavedStream
from .live_text import LiveText, LiveTextState, read_hypotheses
from .load import Load
from .options import EngineOptions, StreamOptions
from .text import NewTokens
from .updates import StreamUpdate

NO_SAMPLES = np.zeros(0, dtype=np.float32)


class StreamRefusedError(RuntimeError):
    """A stream that is not opened, as the engine has no place or no time for it; others go on."""


class StreamFailedError(RuntimeError):
    """A stream in whose earlier step something failed, such as memory; it can only be closed. Others go on."""


class StreamingEngine:
    r"""
    Live streams on one model: samples in, text and words out, for all of them together.

    ```python
    engine = StreamingEngine(model, processor, EngineOptions(latency_ms=160))
    stream = engine.open()
    update = engine.step({stream: samples})[stream]  # update.committed, update.tentative, update.words
    update = engine.finish(stream)
    ```

    The text of a stream depends neither on how its audio was cut into pieces nor on the other streams. Memory of a
    stream does not grow with its age.

    Args:
        model: A model with a head, as [`load_model`] returns it. It is not changed, and others may use it meanwhile.
        processor: The model's processor.
        options: Options of the engine; None: the defaults.

    Raises:
        ValueError: for options that the model does not have.
    """

    def __init__(
        self,
        model: FastConformerRecognizer,
        processor: FastConformerProcessor,
        options: EngineOptions | None = None,
    ) -> None:
        self.options = EngineOptions() if options is None else options
        self.processor = processor
        model.check_decoding(self.options.decoding)
        language = self.options.decoding.language
        self._default_language = language if isinstance(language, str) else None
        # Languages are mixed in by the encoder, stream by stream.
        self._decoding = replace(self.options.decoding, language=None)
        self.encoder = build_chunk_encoder(model, self.options, processor.frame_seconds)
        self.model = self.encoder.model
        self.load_meter = Load()
        self._streams: dict[int, LiveStream] = {}
        self._ids = itertools.count()
        # Shared by the streams of the same options, and gone with the last of them.
        self._text_rules: WeakValueDictionary[EndpointingOptions | None, LiveText] = WeakValueDictionary()
        self._start_state: Any = None
        self._lock = threading.RLock()
        self._make_features(StreamOptions())  # raises for a front end that cannot stream
        self._rules_of(None)

    @property
    def latency_ms(self) -> float:
        """Milliseconds from a sound to its text at most, apart from the time that computing takes."""
        return 1000 * self.encoder.latency_frames * self.processor.frame_seconds

    @property
    def load(self) -> float:
        """Share of real time that computing takes for the open streams, by the last seconds; 0 before it is known."""
        return self.load_meter.share(len(self._streams))

    @property
    def open_streams(self) -> list[int]:
        """Ids of the streams that are open."""
        return list(self._streams)

    @cached_property
    def description(self) -> str:
        """The parts of the model and of the options on which the state of a stream depends, as JSON."""
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "dtype", "transformers_version", "architectures", "quantization_config"):
            config.pop(key, None)
        described = {
            "encoder": self.encoder.describe(),
            "config": config,
            "decoding": repr(self.options.decoding),
            "normalization": repr(self.options.normalization or RunningNormalization()),
        }
        return json.dumps(described, sort_keys=True, default=repr)

    # Streams come and go

    def open(self, options: StreamOptions | None = None) -> int:
        """
        Open a stream.

        Args:
            options: Its options; None: the defaults.

        Returns:
            Its id.

        Raises:
            StreamRefusedError: when `max_streams` are open, and when with one more computing would take more than
                `max_load` of real time.
            ValueError: for options that the model does not have.
        """
        options = StreamOptions() if options is None else options
        with self._lock:
            self._refuse_if_full()
            stream = self._make_stream(options, self._find_row())
            self.encoder.open(stream.row)
            return self._add(stream)

    def close(self, stream_id: int) -> None:
        """Drop a stream; what it has not given yet is lost."""
        with self._lock:
            self._require_open(stream_id)
            del self._streams[stream_id]

    def _refuse_if_full(self) -> None:
        num_open = len(self._streams)
        if num_open >= self.options.max_streams:
            raise StreamRefusedError(f"{num_open} streams are open; expected fewer than max_streams={num_open}.")
        load = self.load_meter.share(num_open + 1)
        # For sources that are ahead of the clock, such as files, real time means nothing.
        now = time.monotonic()
        has_live = any(stream.is_live(now) for stream in self._streams.values())
        if has_live and load > self.options.max_load:
            raise StreamRefusedError(
                f"with one more stream computing would take {load:.2f} of real time; expected at most "
                f"max_load={self.options.max_load}."
            )

    def _find_row(self) -> int:
        taken = {stream.row for stream in self._streams.values()}
        return next(row for row in itertools.count() if row not in taken)

    def _make_stream(self, options: StreamOptions, row: int) -> LiveStream:
        decoding = replace(self.options.decoding, language=options.language or self._default_language)
        self.model.check_decoding(decoding)
        rules = self._rules_of(options.endpointing)
        stream = LiveStream(row, options, rules, self._make_features(options))
        if options.endpointing is not None and "voice_activity" in options.endpointing.kinds:
            sampling_rate = options.sampling_rate or self.processor.feature_extractor.sampling_rate
            stream.voice = (SpeechProbabilities(sampling_rate), VoiceEndpointing(options.endpointing), VoiceState())
        return stream

    def _make_features(self, options: StreamOptions) -> FeatureStream:
        return FeatureStream(
            self.processor.feature_extractor.log_mel,
            options.sampling_rate,
            options.channels,
            self.options.normalization,
            options.name,
        )

    def _rules_of(self, endpointing: EndpointingOptions | None) -> LiveText:
        rules = self._text_rules.get(endpointing)
        if rules is None:
            confidence = self.options.decoding.confidence
            aggregation = None if confidence is None else confidence.aggregation
            rules = LiveText(self.processor, self.model.decoder_type, aggregation, endpointing)
            self._text_rules[endpointing] = rules
        return rules

    def _add(self, stream: LiveStream) -> int:
        stream_id = next(self._ids)
        self._streams[stream_id] = stream
        return stream_id

    def _require_open(self, stream_id: int) -> LiveStream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise ValueError(f"stream_id={stream_id!r} is not open; expected one of {self.open_streams}.")
        return stream

    def _find(self, stream_id: int) -> LiveStream:
        stream = self._require_open(stream_id)
        if stream.failure is not None:
            raise StreamFailedError(
                f"stream_id={stream_id!r} has failed in a step ({stream.failure}); expected `close`."
            )
        return stream

    # Steps

    def step(self, samples: Mapping[int, Any]) -> dict[int, StreamUpdate]:
        """
        Advance some streams by samples of any length.

        Args:
            samples: Of each stream, by its id, the next samples: (samples,) floats in [-1, 1] or 16-bit integers, as
                an array, a tensor or a list; with channels in two dimensions. Streams that are not named wait.

        Returns:
            The update of each of these streams.

        Raises:
            ValueError: for an id that is not open and for what is not samples; then no stream has moved.
            StreamFailedError: for a stream in whose earlier step something failed; no stream has moved.
            Exception: whatever fails in the middle of a step, such as memory; these streams can only be closed then.
        """
        return self._advance(samples, is_last=False)

    def commit(self, stream_id: int) -> StreamUpdate:
        """
        End the utterance of a stream now: all that was heard is decoded and committed, and the next one begins.

        What comes afterwards does not lean on what was before. The update comes in this step, even if it has no text.
        """
        with self._lock:
            stream = self._find(stream_id)
            update = self._advance({stream_id: NO_SAMPLES}, is_last=True, is_commit=True)[stream_id]
            stream.earlier_seconds = stream.heard_seconds
            stream.first_frame = encoder_frames_from_seconds(stream.earlier_seconds, self.processor.frame_seconds)
            stream.num_frames = 0
            stream.features = self._make_features(stream.options)
            stream.pending, stream.decoder, stream.has_given_all = [], None, False
            self.encoder.open(stream.row)
            return replace(update, is_final=False)

    def finish(self, stream_id: int, samples: Any = None) -> StreamUpdate:
        """
        End a stream: the rest is decoded, all text is committed, and the stream is closed.

        Args:
            stream_id: The stream.
            samples: Its last samples; None: there are no more.
        """
        with self._lock:
            samples = NO_SAMPLES if samples is None else samples
            update = self._advance({stream_id: samples}, is_last=True)[stream_id]
            del self._streams[stream_id]
            return update

    @torch.no_grad()
    def _advance(self, samples: Mapping[int, Any], is_last: bool, is_commit: bool = False) -> dict[int, StreamUpdate]:
        with self._lock:
            start = time.monotonic()
            streams = {stream_id: self._find(stream_id) for stream_id in samples}
            fronts = [stream.features for stream in streams.values()]
            before = [(front.num_heard, front.is_finished) for front in fronts]
            updates: dict[int, list[StreamUpdate]] = {stream_id: [] for stream_id in streams}
            seconds_before = sum(self._decoded_seconds(stream) for stream in streams.values())
            try:
                waveforms = self._push(streams, samples, is_last)
                endpoints = {
                    stream_id: self._listen(streams[stream_id], waveform, is_last and not is_commit)
                    for stream_id, waveform in waveforms.items()
                }
                while ready := {key: stream for key, stream in streams.items() if self._is_ready(stream, is_last)}:
                    for stream_id, update in self._run_round(ready, is_last).items():
                        updates[stream_id].append(update)
            except BaseException as error:
                # Text of earlier rounds is lost, and layers of the encoder may have moved on: none of them goes on.
                if [(front.num_heard, front.is_finished) for front in fronts] != before:
                    for stream in streams.values():
                        stream.failure = repr(error)
                raise
            seconds = sum(self._decoded_seconds(stream) for stream in streams.values()) - seconds_before
            self.load_meter.add(time.monotonic() - start, seconds)
            return {
                stream_id: self._join(stream, updates[stream_id], endpoints.get(stream_id, []), is_last)
                for stream_id, stream in streams.items()
            }

    def _push(
        self, streams: Mapping[int, LiveStream], samples: Mapping[int, Any], is_last: bool
    ) -> dict[int, np.ndarray]:
        """Features of new samples to each stream; the samples of those with voice activity."""
        fronts = [stream.features for stream in streams.values()]
        waveforms = {
            stream_id: stream.features.read(samples[stream_id])
            for stream_id, stream in streams.items()
            if stream.voice is not None
        }
        before = [front.num_heard for front in fronts]
        found = push_streams(
            fronts,
            [samples[stream_id] for stream_id in streams],
            [is_last] * len(fronts),
            with_masked_frame=self.encoder.with_masked_frame and is_last,
        )
        now = time.monotonic()
        for stream, features, heard in zip(streams.values(), found, before, strict=True):
            if features.shape[0]:
                stream.pending.append(features)
            if stream.opened_seconds is None and stream.features.num_heard > heard:
                stream.opened_seconds = now - stream.heard_seconds  # a restored stream has heard more before
        return waveforms

    def _listen(self, stream: LiveStream, samples: np.ndarray, is_last: bool) -> list[EndpointEvent]:
        """Starts and stops of speech in new samples."""
        assert stream.voice is not None
        detector, rules, state = stream.voice
        probabilities = detector.push(samples, is_last)
        events, state = rules.advance(state, probabilities, detector.num_samples if is_last else None)
        stream.voice = (detector, rules, state)
        return events

    def _is_ready(self, stream: LiveStream, is_last: bool) -> bool:
        """True if there is a step to do."""
        if stream.has_given_all:
            return False
        return is_last or stream.count_pending() >= self.encoder.wanted_mel_frames(stream.row)

    def _run_round(self, streams: Mapping[int, LiveStream], is_last: bool) -> dict[int, StreamUpdate]:
        """A step of the encoder and of decoding for streams that are ready."""
        chunks, are_last = {}, {}
        for stream in streams.values():
            wanted = self.encoder.wanted_mel_frames(stream.row)
            are_last[stream.row] = is_last and stream.count_pending() <= wanted
            if not stream.pending:
                size = self.processor.feature_extractor.output_size
                stream.pending = [torch.zeros(0, size, dtype=torch.float32, device="cpu")]
            chunks[stream.row] = stream.take(wanted)
            stream.has_given_all = are_last[stream.row]
        languages = {stream.row: stream.options.language or self._default_language for stream in streams.values()}
        encoded = self.encoder.encode(chunks, are_last, languages)
        ordered = list(streams.items())
        found = [encoded[stream.row] for _, stream in ordered]
        hypotheses, following = self._decode([stream for _, stream in ordered], found)
        updates = {}
        for place, ((stream_id, stream), chunk) in enumerate(zip(ordered, found, strict=True)):
            first = stream.first_frame + stream.num_frames
            stream.num_frames += chunk.frames.shape[0]
            tokens = read_hypotheses(hypotheses, place, first)
            stream.following = None
            if following is not None and not are_last[stream.row]:
                stream.following = read_hypotheses(following, place, stream.first_frame + stream.num_frames)
            updates[stream_id] = self._describe(stream, tokens, are_last[stream.row])
        return updates

    def _decode(self, streams: list[LiveStream], chunks: list[EncodedChunk]) -> tuple[Hypotheses, Hypotheses | None]:
        """Tokens of the chunks, whose states are moved on, and those of what follows them, whose states are not."""
        decoding = self._decoding
        frames = torch.nn.utils.rnn.pad_sequence([chunk.frames for chunk in chunks], batch_first=True)
        if not frames.shape[1]:
            frames = torch.nn.functional.pad(frames, (0, 0, 0, 1))
        lengths = [chunk.frames.shape[0] for chunk in chunks]
        states = [self._find_start(frames) if stream.decoder is None else stream.decoder for stream in streams]
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
        for place, stream in enumerate(streams):
            stream.decoder = joined.select([place])
            stream.revised_confidence = None if math.isnan(scores[place]) else scores[place]
        following = None
        if any(chunk.following_frames.shape[0] for chunk in chunks):
            frames = torch.nn.utils.rnn.pad_sequence([chunk.following_frames for chunk in chunks], batch_first=True)
            lengths = [chunk.following_frames.shape[0] for chunk in chunks]
            following, _ = self.model.decode_frames(frames, _to_tensor(lengths, frames), decoding, joined)
        return hypotheses, following

    def _find_start(self, frames: torch.Tensor) -> Any:
        """State of decoding at the start of a stream."""
        if self._start_state is None:
            _, self._start_state = self.model.decode_frames(frames[:1, :1], _to_tensor([0], frames), self._decoding)
        return self._start_state

    # Updates

    def _decoded_seconds(self, stream: LiveStream) -> float:
        return (stream.first_frame + stream.num_frames) * self.processor.frame_seconds

    def _describe(self, stream: LiveStream, tokens: NewTokens, is_last: bool) -> StreamUpdate:
        num_frames = stream.first_frame + stream.num_frames
        found, stream.text = stream.text_rules.advance(
            stream.text, tokens, num_frames, stream.following, is_last, stream.revised_confidence
        )
        stream.revised_confidence = None
        stream.shown = (found.tentative, found.tentative_words)
        return StreamUpdate(*found)

    def _join(
        self, stream: LiveStream, updates: list[StreamUpdate], endpoints: list[EndpointEvent], is_last: bool
    ) -> StreamUpdate:
        """One update of those of several steps."""
        tentative, tentative_words = stream.shown
        found = [event for update in updates for event in update.endpoints]
        lag = 0.0
        if stream.opened_seconds is not None:
            lag = max(time.monotonic() - stream.opened_seconds - stream.heard_seconds, 0.0)
        return StreamUpdate(
            committed="".join(update.committed for update in updates),
            tentative=tentative,
            words=[word for update in updates for word in update.words],
            tentative_words=tentative_words,
            tokens=[token for update in updates for token in update.tokens],
            endpoints=sorted([*found, *endpoints], key=lambda event: event.detected_seconds),
            heard_seconds=stream.heard_seconds,
            decoded_seconds=min(self._decoded_seconds(stream), stream.heard_seconds),
            lag_seconds=lag,
            is_final=is_last,
        )

    # Streams that are kept

    def save(self, stream_id: int) -> SavedStream:
        """
        Keep a stream as it is now; it goes on meanwhile.

        Raises:
            ValueError: for a stream with voice activity, whose detector cannot be copied.
        """
        with self._lock:
            stream = self._find(stream_id)
            require(stream.voice is None, "endpointing", stream.options.endpointing, "none by voice activity to save")
            return SavedStream(
                self.description,
                stream.options,
                {name: tensor.clone() for name, tensor in stream.features.state_dict().items()},
                torch.cat(stream.pending) if stream.pending else torch.zeros(0, dtype=torch.float32, device="cpu"),
                self.encoder.save(stream.row),
                stream.decoder,
                stream.text,
                stream.following,
                stream.first_frame,
                stream.num_frames,
                stream.earlier_seconds,
            )

    def restore(self, saved: SavedStream) -> int:
        """
        Open a stream that goes on where a saved one was.

        Returns:
            Its id.

        Raises:
            StreamRefusedError: as for `open`.
            ValueError: for a stream of an engine with another model or other options.
        """
        if saved.engine != self.description:
            raise ValueError("saved is of an engine with another model or other options; expected one like this.")
        with self._lock:
            self._refuse_if_full()
            with reading("saved", "a stream as `save` gave it"):
                self._check_saved(saved)
            stream = self._make_stream(saved.options, self._find_row())
            stream.features.load_state_dict(saved.features)
            stream.pending = [saved.pending.clone()] if saved.pending.ndim == 2 else []
            self.encoder.restore(stream.row, saved.encoder)
            stream.decoder, stream.text, stream.following = saved.decoder, saved.text, saved.following
            stream.first_frame, stream.num_frames = saved.first_frame, saved.num_frames
            stream.earlier_seconds = saved.earlier_seconds
            self._describe(stream, NewTokens(), is_last=False)  # for the tentative text
            return self._add(stream)

    def _check_saved(self, saved: SavedStream) -> None:
        """Raise for values that `save` does not give: they would fail in a step, and with it that of other streams."""
        require(isinstance(saved.options, StreamOptions), "options", saved.options, "StreamOptions")
        for name in ("first_frame", "num_frames"):
            require_count(name, getattr(saved, name), minimum=0)
        seconds = saved.earlier_seconds
        require(is_number(seconds) and seconds >= 0, "earlier_seconds", seconds, "0 or more")
        size = self.processor.feature_extractor.output_size
        pending = saved.pending
        is_pending = isinstance(pending, torch.Tensor) and pending.dtype == torch.float32
        is_pending = is_pending and (not pending.numel() or tuple(pending.shape[1:]) == (size,))
        require(is_pending, "pending", saved.pending, f"float32 (mel frames, {size})")
        require(bool(torch.isfinite(saved.pending).all()), "pending", "values that are not finite", "finite values")
        self.encoder.check_state(saved.encoder)
        if saved.decoder is not None:
            config: Any = self.model.config
            frames = torch.zeros(1, 1, config.output_size, dtype=self.model.dtype, device=self.model.device)
            start = self._find_start(frames)
            require(isinstance(saved.decoder, type(start)), "decoder", type(saved.decoder), type(start).__name__)
            found, expected = saved.decoder.describe(), start.describe()
            require(found == expected, "decoder", found, f"{expected}, as of this model")
        require(isinstance(saved.text, LiveTextState), "text", type(saved.text), "LiveTextState")
        following = saved.following
        require(isinstance(following, NewTokens | None), "following", type(following), "NewTokens or None")
        # What does not work on its own is found here, and not in a step with others.
        rules = self._rules_of(saved.options.endpointing)
        num_frames = saved.first_frame + saved.num_frames
        rules.advance(saved.text, NewTokens(), num_frames, following, is_last=False)
        rules.advance(saved.text, NewTokens(), num_frames, is_last=True)


def _to_tensor(lengths: list[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(lengths, dtype=torch.int64, device=like.device)
