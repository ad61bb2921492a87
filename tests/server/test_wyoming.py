"""The protocol of Home Assistant, as its own package `wyoming` speaks it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from served import CLIP
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.server.options import ServerOptions
from transformers_fastconformer.server.service import Service
from transformers_fastconformer.server.wyoming import WyomingServer

SPOKEN = "three one four one five nine"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    made = Service(ServerOptions(device="cpu"))
    yield made
    made.close()


def talk(service: Service, conversation: Any) -> Any:
    async def run() -> Any:
        server = WyomingServer(service)
        port = await server.start("127.0.0.1", 0)
        try:
            return await conversation(port)
        finally:
            await server.stop()

    return asyncio.run(run())


async def say(client: AsyncTcpClient, rate: int = 16000, **fields: Any) -> Any:
    data = (read_audio(CLIP, rate) * 32767).astype("<i2").tobytes()
    await client.write_event(Transcribe(**fields).event())
    await client.write_event(AudioStart(rate=rate, width=2, channels=1).event())
    for start in range(0, len(data), 2048):
        chunk = AudioChunk(rate=rate, width=2, channels=1, audio=data[start : start + 2048])
        await client.write_event(chunk.event())
    await client.write_event(AudioStop().event())
    return await client.read_event()


def test_it_describes_itself_and_hears_commands(service: Service) -> None:
    async def conversation(port: int) -> None:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Describe().event())
            info = Info.from_event(await client.read_event())
            assert [model.name for model in info.asr[0].models] == ["demo", "demo-streaming"]
            assert info.asr[0].models[0].languages == ["en"]
            for fields in ({}, {"language": "en", "rate": 22050, "transcript_terms": ["nine"]}):
                answer = Transcript.from_event(await say(client, **fields))
                assert (answer.text, answer.language) == (SPOKEN, fields.get("language"))
            await client.write_event(AudioStop().event())  # of nothing
            assert Transcript.from_event(await client.read_event()).text == ""

    talk(service, conversation)


@pytest.mark.parametrize(
    "content",
    [
        b"rubbish\n",
        b"[]\n",
        b'{"type": 3}\n',
        b"x" * 100_000,
        b'{"type": "audio-chunk", "payload_length": 999999999}\n',
        b'{"type": "audio-chunk", "payload_length": -1}\n',
        b'{"type": "audio-start", "data": {"rate": 1, "width": 2, "channels": 1}}\n',
        b'{"type": "transcribe", "data": {"language": 3}}\n',
    ],
)
def test_rubbish_is_answered_and_ends_the_connection(service: Service, content: bytes) -> None:
    async def conversation(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    assert b'"error"' in talk(service, conversation)


def test_an_error_of_a_command_says_what_it_is(service: Service) -> None:
    async def conversation(port: int) -> None:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            answer = await say(client, language="xx")
            assert answer.type == "error"
            assert "'xx'" in answer.data["text"]

    talk(service, conversation)
