"""One live stream, as an object of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any

from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from .engine import StreamingEngine
from .options import EngineOptions, StreamOptions
from .text import StreamWord
from .updates import StreamUpdate
from .worker import EngineWorker


class _Transcript:
    """
    Text and words of a stream so far.

    Attributes:
        text: The committed text.
        tentative: Text that follows it for now.
        words: The finished words.
    """

    def __init__(self) -> None:
        self.text = ""
        self.tentative = ""
        self.words: list[StreamWord] = []
        self._is_finished = False

    def _add(self, update: StreamUpdate) -> StreamUpdate:
        self.text += update.committed
        self.tentative = update.tentative
        self.words += update.words
        self._is_finished = update.is_final
        if update.error is not None:
            raise update.error
        return update


class StreamingTranscriber(_Transcript):
    r"""
    One live stream: samples in, text and words out.

    ```python
    with StreamingTranscriber(model, processor, EngineOptions(latency_ms=560)) as transcriber:
        for samples in microphone:
            update = transcriber.push(samples)
            print(update.committed, end="")
    ```

    Args:
        model: A model with a head, as [`load_model`] returns it, or a [`StreamingEngine`] that has other streams too.
        processor: The model's processor; None with an engine.
        options: Options of the engine that is made; None: the defaults.
        stream: Options of the stream; None: the defaults.

    Attributes:
        text: The committed text so far.
        tentative: Text that follows it for now.
        words: The finished words so far.

    Raises:
        ValueError: for options that the model does not have.
        StreamRefusedError: as for [`StreamingEngine.open`].
    """

    def __init__(
        self,
        model: FastConformerRecognizer | StreamingEngine,
        processor: FastConformerProcessor | None = None,
        options: EngineOptions | None = None,
        stream: StreamOptions | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, StreamingEngine):
            if processor is not None or options is not None:
                raise ValueError("processor and options are those of the engine that was given; expected None.")
            self.engine = model
        else:
            if processor is None:
                raise ValueError("processor=None is not supported with a model; expected its processor.")
            self.engine = StreamingEngine(model, processor, options)
        self._stream_id = self.engine.open(stream)

    def push(self, samples: Any) -> StreamUpdate:
        """Advance by samples of any length, as in [`StreamingEngine.step`]."""
        self._require_open()
        return self._add(self.engine.step({self._stream_id: samples})[self._stream_id])

    def commit(self) -> StreamUpdate:
        """End the utterance now, as in [`StreamingEngine.commit`]."""
        self._require_open()
        return self._add(self.engine.commit(self._stream_id))

    def finish(self, samples: Any = None) -> StreamUpdate:
        """End the stream; what it has not said yet is in the update."""
        self._require_open()
        return self._add(self.engine.finish(self._stream_id, samples))

    def close(self) -> None:
        """Drop the stream if it is not finished."""
        if not self._is_finished and self._stream_id in self.engine.open_streams:
            self.engine.close(self._stream_id)
        self._is_finished = True

    def _require_open(self) -> None:
        if self._is_finished:
            raise ValueError("this stream is finished; expected one that is open.")

    def __enter__(self) -> StreamingTranscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncStreamingTranscriber(_Transcript):
    r"""
    The same for coroutines, on an engine that a thread owns; streams of many coroutines are computed together.

    ```python
    with EngineWorker(StreamingEngine(model, processor)) as worker:
        async with AsyncStreamingTranscriber(worker) as transcriber:
            update = await transcriber.push(samples)
    ```

    Args:
        worker: The thread that owns the engine.
        stream: Options of the stream; None: the defaults.
    """

    def __init__(self, worker: EngineWorker, stream: StreamOptions | None = None) -> None:
        super().__init__()
        self.worker = worker
        self._options = stream
        self._stream_id: int | None = None

    async def push(self, samples: Any) -> StreamUpdate:
        """
        Advance by samples of any length, which must not be changed meanwhile.

        When the coroutine is cancelled meanwhile, the samples are heard all the same, whole, and `text` and `words`
        have what comes of them once the step is done.
        """
        return await self._wait(self.worker.push(self._require_open(), samples))

    async def commit(self) -> StreamUpdate:
        """End the utterance now, as in [`StreamingEngine.commit`]; it is done even if the coroutine is cancelled."""
        return await self._wait(self.worker.commit(self._require_open()))

    async def finish(self, samples: Any = None) -> StreamUpdate:
        """End the stream, even if the coroutine is cancelled; what it has not said yet is in the update."""
        return await self._wait(self.worker.finish(self._require_open(), samples))

    async def _wait(self, request: Future[StreamUpdate]) -> StreamUpdate:
        """The update of a request, which joins the transcript even if nobody waits for it any more."""
        update = asyncio.wrap_future(request)
        update.add_done_callback(self._take)
        return await asyncio.shield(update)

    def _take(self, update: asyncio.Future[StreamUpdate]) -> None:
        if not update.cancelled() and update.exception() is None:
            self._add(update.result())

    def _require_open(self) -> int:
        if self._stream_id is None or self._is_finished:
            raise ValueError("this stream is not open; expected `async with`, and no call after `finish`.")
        return self._stream_id

    async def __aenter__(self) -> AsyncStreamingTranscriber:
        opening = self.worker.open(self._options)
        try:
            self._stream_id = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._drop)  # it may be under way
            raise
        return self

    def _drop(self, opening: Future[int]) -> None:
        """Close the stream that nobody waits for any more, if it was opened."""
        if not opening.cancelled() and opening.exception() is None:
            self.worker.engine.close(opening.result())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream_id is not None and not self._is_finished:
            with suppress(ValueError):  # a `finish` that was cancelled on the way has closed it
                await asyncio.wrap_future(self.worker.close_stream(self._stream_id))
            self._is_finished = True
