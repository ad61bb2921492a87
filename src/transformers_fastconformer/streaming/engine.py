"""
Live transcription: many streams on one model, advanced together.

The engine is driven by its caller and starts no threads. A lock makes its methods safe to call from several threads;
one at a time is served, as the model is one.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from ..audio.feature_stream import FeatureStream, push_waveforms
from ..audio.running_normalization import RunningNormalization
from ..audio.voice_activity import SpeechProbabilities
from ..decoding.phrase_boosting import CompiledPhrases
from ..frames import encoder_frames_from_seconds
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_decoding import compile_decoding
from ..tokenization_phrases import compile_phrases
from ..validation import is_number, reading, require, require_count
from .chunk_encoders import build_chunk_encoder
from .endpointing import EndpointEvent, EndpointingOptions, VoiceEndpointing, VoiceState
from .live_stream import LiveStream, SavedStream, StreamFailedError
from .live_text import LiveText, LiveTextState
from .load import Load
from .options import EngineOptions, StreamOptions
from .stream_steps import StreamSteps
from .text import NewTokens
from .updates import StreamUpdate

NO_SAMPLES = np.zeros(0, dtype=np.float32)


class StreamRefusedError(RuntimeError):
    """A stream that is not opened, as the engine has no place or no time for it; others go on."""


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
        self.options.decoding.require_one_text()
        # Phrases and languages as tokens.
        self._decoding = compile_decoding(self.options.decoding, processor.tokenizer, model.is_told_language)
        model.check_decoding(self._decoding)
        language = self._decoding.language
        self._default_language = language if isinstance(language, str) else None
        self.encoder = build_chunk_encoder(model, self.options, processor.frame_seconds)
        self.model = self.encoder.model
        self._decoding.make_scorer(1, processor.tokenizer.blank_token_id)  # raises for those of another checkpoint
        self._phrases: Any = self._decoding.boosting
        decoding = replace(self._decoding, language=None, boosting=None)
        self._steps = StreamSteps(self.encoder, decoding, self._default_language)
        self.load_meter = Load()
        self._streams: dict[int, LiveStream] = {}
        self._ids = itertools.count()
        # Shared by the streams of the same options, and gone with the last of them.
        self._text_rules: WeakValueDictionary[EndpointingOptions | None, LiveText] = WeakValueDictionary()
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
        decoding = replace(self._decoding, language=options.language or self._default_language)
        self.model.check_decoding(decoding)
        if options.follows_speaker:
            expected = "False: the model, or its way of streaming, follows no speaker"
            require(self.encoder.follows_speakers, "follows_speaker", True, expected)
        rules = self._rules_of(options.endpointing)
        stream = LiveStream(row, options, rules, self._make_features(options), self._phrases_of(options))
        if options.endpointing is not None and "voice_activity" in options.endpointing.kinds:
            sampling_rate = options.sampling_rate or self.processor.feature_extractor.sampling_rate
            stream.voice = (SpeechProbabilities(sampling_rate), VoiceEndpointing(options.endpointing), VoiceState())
        return stream

    def _phrases_of(self, options: StreamOptions) -> CompiledPhrases | None:
        if options.boosting is None:
            return self._phrases
        self.model.check_decoding(replace(self._decoding, boosting=options.boosting))
        return compile_phrases(options.boosting, self.processor.tokenizer)

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
        stream.require_whole(stream_id)
        return stream

    # Steps

    def follow(self, stream_id: int, activities: torch.Tensor) -> None:
        """
        Tell a stream of one speaker who speaks in its next encoder frames.

        Frames whose activities are not told yet wait; at the end of the stream nobody speaks in them.

        Args:
            stream_id: A stream that was opened with `follows_speaker=True`.
            activities: (frames, 2), how much the speaker to follow and others speak, 0 to 1, as [`follow_speaker`]
                makes them.

        Raises:
            ValueError: for another stream, and for activities of another shape or other values.
        """
        with self._lock:
            stream = self._find(stream_id)
            require(
                stream.options.follows_speaker, "follows_speaker", False, "True for a stream that is told speakers"
            )
            shape = tuple(activities.shape)
            require(len(shape) == 2 and shape[1] == 2, "the shape of activities", shape, "(frames, 2)")
            is_share = bool(((activities >= 0) & (activities <= 1)).all())
            require(is_share, "activities", "other values", "values between 0 and 1")
            told = activities.to(device="cpu", dtype=torch.float32)
            stream.activities = torch.cat([stream.activities, told])

    def step(
        self, samples: Mapping[int, Any], came_seconds: Mapping[int, float] | None = None
    ) -> dict[int, StreamUpdate]:
        """
        Advance some streams by samples of any length.

        Streams do not disturb one another: what is wrong with the samples or with the state of one is the `error` of
        its update. It is a `ValueError` for what is not samples (the stream has not moved, and may go on with others)
        and a `StreamFailedError` for a stream that can only be closed: values of it became infinite or NaN, or a step
        before has failed.

        Args:
            samples: Of each stream, by its id, the next samples: (samples,) floats in [-1, 1] or 16-bit integers, as
                an array, a tensor or a list; with channels in two dimensions. Streams that are not named wait.
            came_seconds: Time of `time.monotonic` at which the samples of a stream came, for those that waited for
                this step; None: now. They count in the lag from then on.

        Returns:
            The update of each of these streams.

        Raises:
            ValueError: for an id that is not open; then no stream has moved.
            Exception: whatever fails in the middle of a step, such as memory; these streams can only be closed then.
        """
        return self._advance(samples, False, came_seconds=came_seconds)

    def commit(self, stream_id: int) -> StreamUpdate:
        """
        End the utterance of a stream now: all that was heard is decoded and committed, and the next one begins.

        What comes afterwards does not lean on what was before. The update comes in this step, even if it has no text.
        """
        with self._lock:
            stream = self._find(stream_id)
            # Where the next utterance begins in the frames that are told would not be known.
            require(not stream.options.follows_speaker, "follows_speaker", True, "False to commit; finish ends it")
            update = self._advance_one(stream_id, NO_SAMPLES, is_commit=True)
            stream.earlier_seconds = stream.heard_seconds
            stream.first_frame = encoder_frames_from_seconds(stream.earlier_seconds, self.processor.frame_seconds)
            stream.num_frames = 0
            stream.features = self._make_features(stream.options)
            stream.pending, stream.decoder, stream.has_given_all = [], None, False
            self.encoder.open(stream.row)
            stream.text = replace(stream.text, text=replace(stream.text.text, first_frame=stream.first_frame))
            # The last frame may lie beyond the audio, where the next part begins.
            end_by, stop = stream.text_rules.text.end_by, stream.first_frame
            words = [end_by(word, stop) for word in update.words]
            tokens = [end_by(token, stop) for token in update.tokens]
            return replace(update, words=words, tokens=tokens, is_final=False)

    def finish(self, stream_id: int, samples: Any = None) -> StreamUpdate:
        """
        End a stream: the rest is decoded, all text is committed, and the stream is closed.

        Args:
            stream_id: The stream.
            samples: Its last samples; None: there are no more.

        Raises:
            ValueError: for what is not samples; the stream is open and has not moved.
            StreamFailedError: for a stream that can only be closed.
        """
        with self._lock:
            update = self._advance_one(stream_id, NO_SAMPLES if samples is None else samples)
            del self._streams[stream_id]
            return update

    def _advance_one(self, stream_id: int, samples: Any, is_commit: bool = False) -> StreamUpdate:
        """The last step of a stream or of its utterance."""
        update = self._advance({stream_id: samples}, True, is_commit)[stream_id]
        if update.error is not None:
            raise update.error
        return update

    @torch.no_grad()
    def _advance(
        self,
        samples: Mapping[int, Any],
        is_last: bool,
        is_commit: bool = False,
        came_seconds: Mapping[int, float] | None = None,
    ) -> dict[int, StreamUpdate]:
        called_seconds = time.monotonic()
        with self._lock:
            start = time.monotonic()
            named = {stream_id: self._require_open(stream_id) for stream_id in samples}
            waveforms, errors = _read(named, samples)
            streams = {stream_id: named[stream_id] for stream_id in waveforms}
            fronts = [stream.features for stream in streams.values()]
            before = [(front.num_heard, front.is_finished) for front in fronts]
            updates: dict[int, list[StreamUpdate]] = {stream_id: [] for stream_id in streams}
            seconds_before = sum(self._decoded_seconds(stream) for stream in streams.values())
            try:
                self._push(streams, waveforms, is_last)
                for stream_id, stream in streams.items():
                    came = (came_seconds or {}).get(stream_id, called_seconds)
                    stream.clock.hear(came, stream.heard_seconds, waveforms[stream_id].shape[0] > 0)
                endpoints = {
                    stream_id: self._listen(stream, waveforms[stream_id], is_last and not is_commit)
                    for stream_id, stream in streams.items()
                }
                while ready := {key: one for key, one in streams.items() if self._steps.is_ready(one, is_last)}:
                    for stream_id, update in self._steps.run(ready, is_last).items():
                        updates[stream_id].append(update)
            except BaseException as error:
                # Text of earlier rounds is lost, and layers of the encoder may have moved on: none of them goes on.
                if [(front.num_heard, front.is_finished) for front in fronts] != before:
                    for stream in streams.values():
                        stream.failure = repr(error)
                raise
            seconds = sum(self._decoded_seconds(stream) for stream in streams.values()) - seconds_before
            now = time.monotonic()
            self.load_meter.add(now - start, seconds)
            for stream in streams.values():
                stream.clock.finish_step(now)
            errors |= _find_failures(streams)
            return {
                stream_id: self._join(
                    stream,
                    updates.get(stream_id, []),
                    endpoints.get(stream_id, []),
                    is_last and stream_id not in errors,
                    errors.get(stream_id),
                )
                for stream_id, stream in named.items()
            }

    def _push(self, streams: Mapping[int, LiveStream], waveforms: Mapping[int, np.ndarray], is_last: bool) -> None:
        """Features of new samples to each stream."""
        found = push_waveforms(
            [stream.features for stream in streams.values()],
            [waveforms[stream_id] for stream_id in streams],
            [is_last] * len(streams),
            with_masked_frame=self.encoder.with_masked_frame and is_last,
        )
        for stream, features in zip(streams.values(), found, strict=True):
            if features.shape[0]:
                stream.pending.append(features)

    def _listen(self, stream: LiveStream, samples: np.ndarray, is_last: bool) -> list[EndpointEvent]:
        """Starts and stops of speech in new samples."""
        if stream.voice is None:
            return []
        detector, rules, state = stream.voice
        probabilities = detector.push(samples, is_last)
        events, state = rules.advance(state, probabilities, detector.num_samples if is_last else None)
        stream.voice = (detector, rules, state)
        return events

    def _decoded_seconds(self, stream: LiveStream) -> float:
        return stream.decoded_frames * self.processor.frame_seconds

    def _join(
        self,
        stream: LiveStream,
        updates: list[StreamUpdate],
        endpoints: list[EndpointEvent],
        is_last: bool,
        error: Exception | None,
    ) -> StreamUpdate:
        """One update of those of several steps."""
        tentative, tentative_words = stream.shown
        found = [event for update in updates for event in update.endpoints]
        return StreamUpdate(
            committed="".join(update.committed for update in updates),
            tentative=tentative,
            words=[word for update in updates for word in update.words],
            tentative_words=tentative_words,
            tokens=[token for update in updates for token in update.tokens],
            endpoints=sorted([*found, *endpoints], key=lambda event: event.detected_seconds),
            heard_seconds=stream.heard_seconds,
            decoded_seconds=min(self._decoded_seconds(stream), stream.heard_seconds),
            lag_seconds=stream.clock.lag_seconds(time.monotonic(), stream.heard_seconds),
            is_final=is_last,
            error=error,
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
                stream.activities.clone(),
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
            stream.earlier_seconds, stream.activities = saved.earlier_seconds, saved.activities.clone()
            self._steps.describe(stream, NewTokens(), is_last=False)  # for the tentative text
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
        told = saved.activities
        is_told = isinstance(told, torch.Tensor) and told.dtype == torch.float32 and tuple(told.shape[1:]) == (2,)
        require(is_told and bool(((told >= 0) & (told <= 1)).all()), "activities", told, "float32 (frames, 2), 0 to 1")
        self.encoder.check_state(saved.encoder)
        if saved.decoder is not None:
            config: Any = self.model.config
            frames = torch.zeros(1, 1, config.output_size, dtype=self.model.dtype, device=self.model.device)
            start = self._steps.find_start(frames, self._phrases_of(saved.options) is not None)
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


def _read(
    streams: Mapping[int, LiveStream], samples: Mapping[int, Any]
) -> tuple[dict[int, np.ndarray], dict[int, Exception]]:
    """The mono samples of each stream, and what is wrong with those of the others; no stream moves."""
    waveforms: dict[int, np.ndarray] = {}
    errors: dict[int, Exception] = _find_failures(streams)
    for stream_id, stream in streams.items():
        if stream_id in errors:
            continue
        try:
            waveforms[stream_id] = stream.features.read(samples[stream_id])
        except ValueError as error:
            errors[stream_id] = error
    return waveforms, errors


def _find_failures(streams: Mapping[int, LiveStream]) -> dict[int, Exception]:
    """The error of each stream that has failed."""
    errors: dict[int, Exception] = {}
    for stream_id, stream in streams.items():
        try:
            stream.require_whole(stream_id)
        except StreamFailedError as error:
            errors[stream_id] = error
    return errors
