"""A thread that owns an engine: others hand it audio through a queue, and what waits together is computed together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from .engine import StreamingEngine
from .live_stream import StreamFailedError
from .options import StreamOptions
from .updates import StreamUpdate

# Requests that are taken from the queue at a time, at most.
MAX_REQUESTS = 1024


@dataclass
class _Push:
    """Samples of a stream, for the next step."""

    stream_id: int
    samples: Any
    came_seconds: float
    future: Future[StreamUpdate] = field(default_factory=Future)


@dataclass
class _Call:
    """Something else to do with the engine, after all that was handed over before it."""

    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class EngineWorker:
    """
    A thread through which any number of threads and coroutines use one [`StreamingEngine`].

    Samples of different streams that wait at the same time go through the model in one step. Requests for one stream
    are done in the order in which they were made.

    Args:
        engine: The engine, which nobody else uses from now on.
        turn: Makes a context in which the device is used, where others use it too; None: it is always free.
        gather_seconds: Time for which requests are gathered before they are done; 0 (default): what waits already.
    """

    def __init__(
        self,
        engine: StreamingEngine,
        turn: Callable[[], AbstractContextManager[None]] | None = None,
        gather_seconds: float = 0.0,
    ) -> None:
        self.engine = engine
        self._turn = nullcontext if turn is None else turn
        self._gather_seconds = gather_seconds
        self._requests: queue.SimpleQueue[_Push | _Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="fastconformer-engine", daemon=True)
        self._thread.start()

    def open(self, options: StreamOptions | None = None) -> Future[int]:
        """Open a stream, as in [`StreamingEngine.open`]; the future has its id."""
        return self._submit(_Call(lambda: self.engine.open(options)))

    def push(self, stream_id: int, samples: Any) -> Future[StreamUpdate]:
        """
        Advance a stream; the future has its update. The samples must not be changed before it is there.

        `cancel` of the future takes all of them back as long as they wait, and returns False once their step has
        begun: then they are heard, all of them.
        """
        return self._submit(_Push(stream_id, samples, time.monotonic()))

    def commit(self, stream_id: int) -> Future[StreamUpdate]:
        """End the utterance of a stream, as in [`StreamingEngine.commit`]."""
        return self._submit(_Call(lambda: self.engine.commit(stream_id)))

    def finish(self, stream_id: int, samples: Any = None) -> Future[StreamUpdate]:
        """End a stream, as in [`StreamingEngine.finish`]."""
        return self._submit(_Call(lambda: self.engine.finish(stream_id, samples)))

    def close_stream(self, stream_id: int) -> Future[None]:
        """Drop a stream, as in [`StreamingEngine.close`]."""
        return self._submit(_Call(lambda: self.engine.close(stream_id)))

    def close(self) -> None:
        """Do what was handed over, then end the thread."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._requests.put(None)
        self._thread.join()

    def __enter__(self) -> EngineWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, request: Any) -> Future[Any]:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the worker of this engine is closed; expected one that is open.")
            self._requests.put(request)
        return request.future

    def _work(self) -> None:
        is_open = True
        while is_open:
            requests = [self._requests.get()]
            if self._gather_seconds and requests[0] is not None:
                time.sleep(self._gather_seconds)
            while len(requests) < MAX_REQUESTS and not self._requests.empty():
                requests.append(self._requests.get())
            is_open = None not in requests
            pushes: dict[int, _Push] = {}
            for request in requests:
                if request is None:
                    continue
                # A second piece of a stream waits for the first one.
                if isinstance(request, _Push) and request.stream_id not in pushes:
                    pushes[request.stream_id] = request
                    continue
                self._step(pushes)
                pushes = {}
                if isinstance(request, _Push):
                    pushes[request.stream_id] = request
                else:
                    with self._turn():
                        _run(request.future, request.function)
            self._step(pushes)

    def _step(self, pushes: dict[int, _Push]) -> None:
        """Advance streams together: an error of one stream stops no other."""
        wanted = {key: push for key, push in pushes.items() if push.future.set_running_or_notify_cancel()}
        open_streams = self.engine.open_streams
        for key in [key for key in wanted if key not in open_streams]:  # with it no stream would move
            push = wanted.pop(key)
            _settle(push.future, lambda: self.engine.step({key: push.samples})[key])  # noqa: B023
        if not wanted:
            return
        try:
            with self._turn():
                updates = self.engine.step(
                    {key: push.samples for key, push in wanted.items()},
                    {key: push.came_seconds for key, push in wanted.items()},
                )
        except BaseException as error:
            failure = error
            if isinstance(error, ValueError):  # it would say that the samples are wrong and that nothing has moved
                failure = StreamFailedError(f"a step has failed ({error!r}); expected `close`.")
            for push in wanted.values():
                push.future.set_exception(failure)
            return
        for key, push in wanted.items():
            error_of_stream = updates[key].error
            if error_of_stream is None:
                push.future.set_result(updates[key])
            else:
                push.future.set_exception(error_of_stream)


def _run(future: Future[Any], function: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        _settle(future, function)


def _settle(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
