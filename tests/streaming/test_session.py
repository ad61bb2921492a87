"""One live stream as an object, from this thread and from coroutines."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer import (
    AsyncStreamingTranscriber,
    EngineOptions,
    EngineWorker,
    StreamingEngine,
    StreamingTranscriber,
    load_model,
    read_audio,
    transcribe_waveforms,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS

OPTIONS = EngineOptions(latency_ms=1600)


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_model(CHECKPOINT_PATH)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [read_audio(path) for path in CLIP_PATHS]


@pytest.fixture(scope="module")
def texts(demo: tuple[Any, Any], clips: list[np.ndarray]) -> list[str]:
    return [transcribe_waveforms(*demo, [clip])[0].text for clip in clips]


def test_a_stream_holds_its_text_and_words(demo: tuple[Any, Any], clips: list[np.ndarray], texts: list[str]) -> None:
    with StreamingTranscriber(*demo, OPTIONS) as transcriber:
        for start in range(0, len(clips[0]), 4000):
            update = transcriber.push(clips[0][start : start + 4000])
            assert transcriber.tentative == update.tentative
        transcriber.finish()
        assert transcriber.text == texts[0]
        assert [word.text for word in transcriber.words] == texts[0].split()
        with pytest.raises(ValueError, match="this stream is finished"):
            transcriber.push(clips[0])
    assert transcriber.engine.open_streams == []


def test_streams_share_an_engine_and_leave_it_when_they_are_dropped(
    demo: tuple[Any, Any], clips: list[np.ndarray], texts: list[str]
) -> None:
    engine = StreamingEngine(*demo, OPTIONS)
    with StreamingTranscriber(engine) as first:
        with StreamingTranscriber(engine) as second:
            second.push(clips[1])
            assert len(engine.open_streams) == 2
        assert len(engine.open_streams) == 1
        first.push(clips[0])
        first.commit()
        assert first.text == texts[0]
    with pytest.raises(ValueError, match="those of the engine"):
        StreamingTranscriber(engine, demo[1])
    with pytest.raises(ValueError, match="processor=None"):
        StreamingTranscriber(demo[0])


def test_coroutines_share_an_engine(demo: tuple[Any, Any], clips: list[np.ndarray], texts: list[str]) -> None:
    async def listen(worker: EngineWorker, clip: np.ndarray, size: int) -> str:
        async with AsyncStreamingTranscriber(worker) as transcriber:
            for start in range(0, len(clip), size):
                await transcriber.push(clip[start : start + size])
            await transcriber.finish()
            return transcriber.text

    async def listen_to_all() -> list[str]:
        with EngineWorker(StreamingEngine(*demo, OPTIONS)) as worker:
            found = await asyncio.gather(*(listen(worker, clips[n % 2], 3000 + 700 * n) for n in range(4)))
            assert worker.engine.open_streams == []
            return found

    assert asyncio.run(listen_to_all()) == [texts[n % 2] for n in range(4)]


def test_a_coroutine_may_be_cancelled_at_any_time(
    demo: tuple[Any, Any], clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel(worker: EngineWorker, name: str) -> None:
        """Cancel a coroutine while the worker is in a method of the engine."""
        is_there, go_on = threading.Event(), threading.Event()
        method = getattr(worker.engine, name)

        def wait(*arguments: Any) -> Any:
            is_there.set()
            go_on.wait()
            return method(*arguments)

        async def listen() -> None:
            async with AsyncStreamingTranscriber(worker) as transcriber:
                await transcriber.push(clips[0][:8000])
                await transcriber.finish()

        monkeypatch.setattr(worker.engine, name, wait)
        task = asyncio.create_task(listen())
        await asyncio.to_thread(is_there.wait)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    for name in ("open", "step", "finish"):
        with EngineWorker(StreamingEngine(*demo, OPTIONS)) as worker:
            asyncio.run(cancel(worker, name))
        assert worker.engine.open_streams == [], name


@pytest.mark.parametrize("has_begun", [True, False])
def test_what_a_cancelled_coroutine_has_pushed_is_heard(
    demo: tuple[Any, Any], clips: list[np.ndarray], texts: list[str], monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    """Its words are in the transcript, whether its step waits or is under way."""

    async def listen(worker: EngineWorker) -> tuple[str, list[str]]:
        is_there, go_on = threading.Event(), threading.Event()
        step = worker.engine.step

        def wait(*arguments: Any) -> Any:
            is_there.set()
            go_on.wait()
            return step(*arguments)

        async with AsyncStreamingTranscriber(worker) as transcriber, AsyncStreamingTranscriber(worker) as other:
            with monkeypatch.context() as patch:
                patch.setattr(worker.engine, "step", wait)
                first = asyncio.create_task(other.push(clips[1]))
                if not has_begun:  # the worker is busy with the other stream
                    await asyncio.to_thread(is_there.wait)
                push = asyncio.create_task(transcriber.push(clips[0]))
                await asyncio.to_thread(is_there.wait)
                await asyncio.sleep(0)
                push.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await push
                go_on.set()
                await first
            await transcriber.finish()
            return transcriber.text, [word.text for word in transcriber.words]

    with EngineWorker(StreamingEngine(*demo, OPTIONS)) as worker:
        text, words = asyncio.run(listen(worker))
    assert text == texts[0]
    assert words == texts[0].split()


def test_a_coroutine_that_fails_closes_its_stream(demo: tuple[Any, Any], clips: list[np.ndarray]) -> None:
    async def fail(worker: EngineWorker) -> None:
        async with AsyncStreamingTranscriber(worker) as transcriber:
            await transcriber.push(clips[0])
            raise KeyError("of the caller")

    with EngineWorker(StreamingEngine(*demo, OPTIONS)) as worker:
        with pytest.raises(KeyError, match="of the caller"):
            asyncio.run(fail(worker))
        assert worker.engine.open_streams == []
        with pytest.raises(ValueError, match="not open"):
            asyncio.run(AsyncStreamingTranscriber(worker).push(clips[0]))
