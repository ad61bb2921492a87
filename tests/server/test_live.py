from __future__ import annotations

import asyncio
from typing import Any

import pytest
from served import CLIP

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.server.device_turn import DeviceTurn
from transformers_fastconformer.server.errors import ApiError
from transformers_fastconformer.server.live import DELAYS, LiveRequest, LiveStreams
from transformers_fastconformer.server.models import ModelStore
from transformers_fastconformer.server.options import ServerOptions

SPOKEN = "three one four one five nine"


def make_streams(**options: Any) -> LiveStreams:
    chosen = ServerOptions(device="cpu", **options)
    return LiveStreams(chosen, ModelStore(chosen), DeviceTurn())


async def hear(streams: LiveStreams, request: LiveRequest) -> str:
    stream = await asyncio.to_thread(streams.open, request)
    try:
        text = ""
        for piece in stream.pieces(read_audio(CLIP, request.sampling_rate)):
            text += (await stream.push(piece)).committed
        return text + (await stream.finish()).committed
    finally:
        await stream.close()


def test_streams_of_two_models_at_two_rates_together() -> None:
    streams = make_streams()

    async def run() -> list[str]:
        return await asyncio.gather(
            hear(streams, LiveRequest("demo")),
            hear(streams, LiveRequest("demo", 24000, keywords=("nine",))),
            hear(streams, LiveRequest("demo-streaming", 8000, language="en")),
        )

    texts = asyncio.run(run())
    assert texts[:2] == [SPOKEN, SPOKEN]
    assert texts[2]
    assert (streams.num_open, streams._engines) == (0, {})
    assert {name: streams.models._entries[name].num_users for name in streams.models.names} == {
        "demo": 0,
        "demo-streaming": 0,
    }


def test_a_longer_delay_is_a_longer_look_ahead() -> None:
    streams = make_streams()
    for model in ("demo", "demo-streaming"):
        latencies = []
        for delay in DELAYS:
            stream = streams.open(LiveRequest(model, delay=delay))
            latencies.append(stream.latency_ms)
            asyncio.run(stream.close())
        assert latencies == sorted(latencies)
        assert latencies[0] < latencies[-1]
    streams.close()


def test_what_cannot_be_opened_leaves_no_trace() -> None:
    streams = make_streams(max_streams=1)
    for request in (LiveRequest("other"), LiveRequest(language="xx"), LiveRequest(sampling_rate=0)):
        with pytest.raises((ApiError, ValueError)):
            streams.open(request)
        assert (streams.num_open, streams._engines) == (0, {})
    stream = streams.open(LiveRequest())
    with pytest.raises(ApiError, match="1 live streams are open") as refused:
        streams.open(LiveRequest())
    assert refused.value.status == 429
    for _ in range(2):
        asyncio.run(stream.close())
    asyncio.run(streams.open(LiveRequest()).close())


def test_a_stream_that_is_too_late_is_told_so() -> None:
    streams = make_streams(max_lag_seconds=1e-9)
    stream = streams.open(LiveRequest())

    async def run() -> None:
        for piece in stream.pieces(read_audio(CLIP)):
            await asyncio.sleep(0.02)
            await stream.push(piece)

    with pytest.raises(ApiError, match="late") as refused:
        asyncio.run(run())
    assert refused.value.status == 503
    asyncio.run(stream.close())


def test_streams_of_a_server_that_ends_can_be_closed() -> None:
    streams = make_streams()

    async def run() -> None:
        stream = await asyncio.to_thread(streams.open, LiveRequest("demo"))
        await asyncio.to_thread(streams.close)
        await stream.close()

    asyncio.run(run())
    assert streams.num_open == 0
    assert streams.models._entries["demo"].num_users == 0
    with pytest.raises(ApiError, match="The server ends") as refused:
        streams.open(LiveRequest("demo"))
    assert refused.value.status == 503
