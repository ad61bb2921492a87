"""The thread that owns an engine: order, batches, errors of one stream, the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer import (
    EngineOptions,
    EngineWorker,
    StreamFailedError,
    StreamingEngine,
    load_model,
    read_audio,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS

SECOND = np.zeros(16000, dtype=np.float32)


@pytest.fixture(scope="module")
def engine() -> StreamingEngine:
    return StreamingEngine(*load_model(CHECKPOINT_PATH), EngineOptions(latency_ms=1600, max_streams=3))


@pytest.fixture
def worker(engine: StreamingEngine) -> Iterator[EngineWorker]:
    with EngineWorker(engine) as worker:
        yield worker
    for stream in engine.open_streams:
        engine.close(stream)


def hold(worker: EngineWorker) -> Any:
    """Let the worker wait, so that requests gather; call what is returned to let it go on."""
    is_free = threading.Event()
    wait = worker.engine.open
    worker.engine.open = lambda options: (is_free.wait(), setattr(worker.engine, "open", wait))[1]  # type: ignore[method-assign]
    worker.open()
    return is_free.set


def test_what_waits_together_is_one_step(worker: EngineWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [worker.open().result() for _ in range(3)]
    steps: list[list[int]] = []
    step = worker.engine.step
    monkeypatch.setattr(
        worker.engine, "step", lambda samples, came: (steps.append(list(samples)), step(samples, came))[1]
    )
    let_go = hold(worker)
    futures = [worker.push(stream, SECOND) for stream in [*streams, streams[0]]]
    let_go()
    heard = [future.result().heard_seconds for future in futures]
    assert heard == [1.0, 1.0, 1.0, 2.0]
    assert steps == [streams, [streams[0]]]


def test_requests_of_a_stream_keep_their_order(worker: EngineWorker) -> None:
    stream = worker.open().result()
    clip = read_audio(CLIP_PATHS[0])
    let_go = hold(worker)
    futures = [worker.push(stream, clip[:20000]), worker.push(stream, clip[20000:]), worker.finish(stream)]
    let_go()
    updates = [future.result() for future in futures]
    assert "".join(update.committed for update in updates) == "three one four one five nine"
    assert updates[-1].is_final
    assert stream not in worker.engine.open_streams


def test_an_error_of_one_stream_stops_no_other(worker: EngineWorker) -> None:
    stream = worker.open().result()
    let_go = hold(worker)
    good, bad = worker.push(stream, SECOND), worker.push(98, SECOND)
    let_go()
    assert good.result().heard_seconds == 1.0
    with pytest.raises(ValueError, match="stream_id=98 is not open"):
        bad.result()
    with pytest.raises(ValueError, match="stream_id=98 is not open"):
        worker.commit(98).result()


def test_audio_is_not_heard_twice_after_an_error_inside_a_step(
    worker: EngineWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = worker.open().result()
    encode, calls = worker.engine.encoder.encode, iter([True])

    def fail_once(*arguments: Any) -> Any:
        if next(calls, False):
            raise ValueError("inside")
        return encode(*arguments)

    monkeypatch.setattr(worker.engine.encoder, "encode", fail_once)
    with pytest.raises(StreamFailedError, match="inside"):
        worker.push(stream, np.concatenate([SECOND] * 3)).result()
    good = worker.open().result()
    let_go = hold(worker)
    futures = [worker.push(stream, SECOND), worker.push(good, SECOND)]
    let_go()
    assert futures[1].result().heard_seconds == 1.0
    with pytest.raises(StreamFailedError, match="inside"):
        futures[0].result()


def test_a_request_that_is_cancelled_is_not_done(worker: EngineWorker) -> None:
    stream = worker.open().result()
    let_go = hold(worker)
    future = worker.push(stream, SECOND)
    assert future.cancel()
    let_go()
    assert worker.push(stream, SECOND[:10]).result().heard_seconds == pytest.approx(10 / 16000)


def test_a_piece_whose_step_has_begun_cannot_be_taken_back(
    worker: EngineWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = worker.open().result()
    has_begun, go_on = threading.Event(), threading.Event()
    step = worker.engine.step

    def wait(*arguments: Any) -> Any:
        has_begun.set()
        go_on.wait()
        return step(*arguments)

    monkeypatch.setattr(worker.engine, "step", wait)
    future = worker.push(stream, SECOND)
    has_begun.wait()
    assert not future.cancel()
    go_on.set()
    assert future.result().heard_seconds == 1.0


def test_time_in_the_queue_is_lag(worker: EngineWorker) -> None:
    stream = worker.open().result()
    worker.push(stream, SECOND[:160]).result()
    let_go = hold(worker)
    future = worker.push(stream, SECOND[:160])
    time.sleep(0.3)
    let_go()
    assert future.result().lag_seconds >= 0.25


def test_samples_that_are_not_finite_are_an_error_of_their_stream(worker: EngineWorker) -> None:
    good, bad = worker.open().result(), worker.open().result()
    let_go = hold(worker)
    futures = [worker.push(good, SECOND), worker.push(bad, SECOND * np.float32("nan"))]
    let_go()
    assert futures[0].result().heard_seconds == 1.0
    with pytest.raises(ValueError, match="finite"):
        futures[1].result()
    assert worker.push(bad, SECOND).result().heard_seconds == 1.0


def test_a_closed_worker_does_what_it_was_given_and_takes_no_more(engine: StreamingEngine) -> None:
    worker = EngineWorker(engine)
    stream = worker.open().result()
    let_go = hold(worker)
    future = worker.push(stream, SECOND)
    let_go()
    worker.close()
    worker.close()
    assert future.result().heard_seconds == 1.0
    with pytest.raises(RuntimeError, match="is closed"):
        worker.open()
    engine.close(stream)
