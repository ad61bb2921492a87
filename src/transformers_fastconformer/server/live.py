"""Live streams of the server: engines by model and look-ahead, admission, and streams that are ended in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..decoding.options import DecodingOptions
from ..decoding.phrase_boosting import PhraseBoosting
from ..modeling.streaming_schedule import list_schedules
from ..streaming.chunk_encoders import can_be_cached
from ..streaming.endpointing import EndpointingOptions
from ..streaming.engine import StreamingEngine, StreamRefusedError
from ..streaming.options import EngineOptions, StreamOptions
from ..streaming.updates import StreamUpdate
from ..streaming.worker import EngineWorker
from .device_turn import DeviceTurn
from .errors import SERVER_ERROR, ApiError
from .fields import PROBABILITIES
from .models import LoadedModel, ModelStore
from .options import ServerOptions

DELAYS = ("minimal", "low", "medium", "high", "xhigh")
# Latencies of windows, for models that are not made for streams; 2000 is the engine's own default.
BUFFERED_LATENCIES_MS = {"minimal": 800.0, "low": 1200.0, "medium": 2000.0, "high": 3200.0, "xhigh": 5000.0}
# Pieces in which audio is handed on, so that an utterance ends where its pause is, however much came at once.
PIECE_SECONDS = 0.1
SECONDS_TO_RETRY = 5.0


@dataclass(frozen=True)
class LiveRequest:
    """
    What a client of a live stream asks for.

    Args:
        model: Name of the model, or None.
        sampling_rate: Rate of its samples, in Hz.
        language: Code of the language, or None.
        languages: Codes that the text may be in.
        keywords: Phrases that the text prefers.
        delay: One of `DELAYS`, for the look-ahead; None: that of the model.
        endpointing: How ends of utterances are found; None: they are not looked for.
        has_confidence: Words have confidences.
    """

    model: str | None = None
    sampling_rate: int = 16000
    language: str | None = None
    languages: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    delay: str | None = None
    endpointing: EndpointingOptions | None = None
    has_confidence: bool = False


def latency_of(delay: str | None, loaded: LoadedModel) -> float | None:
    """
    The look-ahead for a `delay`: of models made for streams one they were trained with, the smallest first.

    Returns:
        Milliseconds; None: the default of the model.
    """
    if delay is None:
        return None
    config: Any = loaded.model.config
    if not can_be_cached(config):
        return BUFFERED_LATENCIES_MS[delay]
    frame_ms = 1000 * loaded.processor.frame_seconds
    latencies = sorted({round(frame_ms * schedule.step_frames) for schedule in list_schedules(config)})
    place = DELAYS.index(delay) * (len(latencies) - 1) / (len(DELAYS) - 1)
    return latencies[int(place + 0.5)]


class _Engine:
    """A worker and the number of its streams."""

    def __init__(self, worker: EngineWorker) -> None:
        self.worker = worker
        self.num_users = 0


class LiveStreams:
    """
    The live streams of all models.

    Args:
        options: Options of the server.
        models: The models.
        turn: Turns of the device.
    """

    def __init__(self, options: ServerOptions, models: ModelStore, turn: DeviceTurn) -> None:
        self.options = options
        self.models = models
        self._turn = turn
        self._engines: dict[tuple[Any, ...], _Engine] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self.num_open = 0

    @property
    def load(self) -> float:
        """Share of real time that all live streams take, as measured."""
        return sum(engine.worker.engine.load for engine in self._engines.values())

    def open(self, request: LiveRequest) -> LiveStream:
        """
        Open a stream; not for the thread of the event loop, as a model may have to be loaded.

        Raises:
            ApiError: 404 for an unknown model, 429 where there is no room, 503 where the server ends.
            ValueError: for options that the model does not have.
        """
        name = self.models.require_name(request.model)
        with self._lock:
            if self._is_closed:
                raise ApiError("The server ends.", 503, code="shutting_down", kind=SERVER_ERROR)
            if self.num_open >= self.options.max_streams:
                raise _refusal(f"{self.num_open} live streams are open")
            self.num_open += 1
        try:
            loaded = self.models.acquire(name)
            try:
                return self._open(request, loaded)
            except BaseException:
                self.models.release(name)
                raise
        except BaseException:
            with self._lock:
                self.num_open -= 1
            raise

    def _open(self, request: LiveRequest, loaded: LoadedModel) -> LiveStream:
        if loaded.is_multitask:
            raise ApiError(
                f"model={loaded.name!r} does not stream; expected a CTC or transducer model.",
                400,
                "model",
                "invalid_value",
            )
        is_told = loaded.model.is_told_language
        if is_told and request.languages:
            raise ApiError("languages: this model is told one; expected language.", 400, "languages", "invalid_value")
        codes = request.languages or ((request.language,) if request.language and not is_told else ())
        latency_ms = latency_of(request.delay, loaded)
        key = (loaded.name, latency_ms, codes, request.has_confidence)
        stream_options = StreamOptions(
            sampling_rate=request.sampling_rate,
            language=request.language if is_told else None,
            endpointing=request.endpointing,
            boosting=PhraseBoosting(request.keywords) if request.keywords else None,
        )
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine_options = EngineOptions(
                    latency_ms=latency_ms,
                    max_streams=self.options.max_streams,
                    max_load=self.options.max_load,
                    decoding=DecodingOptions(
                        languages=codes or None, confidence=PROBABILITIES if request.has_confidence else None
                    ),
                )
                made = StreamingEngine(loaded.model, loaded.processor, engine_options)
                worker = EngineWorker(made, self._turn.live, self.options.gather_ms / 1000)
                engine = self._engines[key] = _Engine(worker)
            engine.num_users += 1
            load = self.load
        try:
            if load > self.options.max_load:
                raise _refusal(f"live streams take {load:.2f} of real time")
            try:
                stream_id = engine.worker.open(stream_options).result()
            except StreamRefusedError as error:
                raise _refusal(str(error).rstrip(".")) from error
        except BaseException:
            self._leave(key)
            raise
        return LiveStream(self, key, engine.worker, stream_id, replace(request, model=loaded.name))

    def leave(self, key: tuple[Any, ...]) -> None:
        """End the use of an engine by a stream."""
        self._leave(key)
        self.models.release(key[0])
        with self._lock:
            self.num_open -= 1

    def _leave(self, key: tuple[Any, ...]) -> None:
        closing = None
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:  # they have ended, all together
                return
            engine.num_users -= 1
            if not engine.num_users:
                closing = self._engines.pop(key)
        if closing is not None:
            closing.worker.close()

    def close(self) -> None:
        """End the threads of all engines; their streams can only be closed from now on."""
        with self._lock:
            self._is_closed = True
            engines, self._engines = list(self._engines.values()), {}
        for engine in engines:
            engine.worker.close()


class LiveStream:
    """
    One live stream, for coroutines.

    Args:
        streams: Where it belongs.
        key: Its engine.
        worker: The thread of the engine.
        stream_id: Its id there.
        request: As it was asked for, with the name of the model.
    """

    def __init__(
        self, streams: LiveStreams, key: tuple[Any, ...], worker: EngineWorker, stream_id: int, request: LiveRequest
    ) -> None:
        self.request = request
        self._streams = streams
        self._key = key
        self._worker = worker
        self._stream_id = stream_id
        self._is_closed = False

    @property
    def latency_ms(self) -> float:
        """Milliseconds from a sound to its text at most, without computing."""
        return self._worker.engine.latency_ms

    async def push(self, samples: np.ndarray) -> StreamUpdate:
        """
        Advance by samples, (samples,) 16-bit integers or floats.

        Raises:
            ApiError: 503 where the stream is later than `max_lag_seconds`: it can only be closed.
        """
        update = await asyncio.wrap_future(self._worker.push(self._stream_id, samples))
        limit = self._streams.options.max_lag_seconds
        if update.lag_seconds > limit:
            raise ApiError(
                f"This stream is {update.lag_seconds:.1f} s late, more than {limit:g} s; the server is overloaded.",
                503,
                code="overloaded",
                kind=SERVER_ERROR,
                retry_seconds=SECONDS_TO_RETRY,
            )
        return update

    def pieces(self, samples: np.ndarray) -> Sequence[np.ndarray]:
        """Samples in pieces of `PIECE_SECONDS`."""
        size = max(int(PIECE_SECONDS * self.request.sampling_rate), 1)
        return [samples[start : start + size] for start in range(0, samples.shape[0], size)]

    async def commit(self) -> StreamUpdate:
        """End the utterance, as [`StreamingEngine.commit`] does."""
        return await asyncio.wrap_future(self._worker.commit(self._stream_id))

    async def finish(self) -> StreamUpdate:
        """End the stream; its last text is in the update."""
        return await asyncio.wrap_future(self._worker.finish(self._stream_id))

    async def close(self) -> None:
        """Give its place back; any number of times."""
        if not self._is_closed:
            self._is_closed = True
            await asyncio.shield(asyncio.to_thread(self._close))

    def _close(self) -> None:
        try:
            if self._stream_id in self._worker.engine.open_streams:
                self._worker.close_stream(self._stream_id).exception()
        except RuntimeError:  # the worker has ended, and its streams with it
            pass
        finally:
            self._streams.leave(self._key)


def _refusal(reason: str) -> ApiError:
    return ApiError(
        f"The server takes no more live streams: {reason}. Try again later.",
        429,
        code="rate_limit_exceeded",
        kind="rate_limit_error",
        retry_seconds=SECONDS_TO_RETRY,
    )
