"""Live text, as the `deepgram-sdk` package asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deepgram import DeepgramClient
from deepgram.environment import DeepgramClientEnvironment
from served import CLIP, Served
from starlette.datastructures import QueryParams

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.server.errors import ApiError
from transformers_fastconformer.server.listen import ListenRequest

SPOKEN = "three one four one five nine"


def audio_of(silence_seconds: float = 0.0) -> bytes:
    samples = np.concatenate([read_audio(CLIP), np.zeros(int(silence_seconds * 16000))])
    return (samples * 32767).astype("<i2").tobytes()


def connect(served: Served, **options: Any) -> Any:
    base = f"ws://127.0.0.1:{served.port}"
    environment = DeepgramClientEnvironment(base=served.address, production=base, agent=base, agent_rest=base)
    client = DeepgramClient(api_key="secret", environment=environment)
    chosen = {"model": "demo", "encoding": "linear16", "sample_rate": "16000", **options}
    return client.listen.v1.connect(**chosen)


def test_results_finals_and_interims(served: Served) -> None:
    with connect(served, interim_results="true", endpointing="800", utterance_end_ms="1000") as socket:
        data = audio_of(2.5)
        for start in range(0, len(data), 6400):
            socket.send_media(data[start : start + 6400])
        socket.send_keep_alive()
        socket.send_close_stream()
        messages = list(socket)
    finals = [one for one in messages if one.type == "Results" and one.is_final]
    interims = [one for one in messages if one.type == "Results" and not one.is_final]
    assert " ".join(filter(None, (one.channel.alternatives[0].transcript for one in finals))) == SPOKEN
    assert interims
    assert any(one.speech_final for one in finals)
    words = [word for one in finals for word in one.channel.alternatives[0].words]
    assert [word.word for word in words] == SPOKEN.split()
    assert all(word.start < word.end and 0 < word.confidence <= 1 for word in words)
    (end,) = [one for one in messages if one.type == "UtteranceEnd"]
    assert end.last_word_end == words[-1].end
    assert messages[-1].type == "Metadata"
    assert messages[-1].duration == pytest.approx(len(data) / 32000, abs=0.01)


def test_finalize_answers_and_the_stream_goes_on(served: Served) -> None:
    with connect(served, endpointing="false", vad_events="true", keyterm="nine") as socket:
        for _ in range(2):
            socket.send_media(audio_of(0.3))
            socket.send_finalize()
            while True:
                message = socket.recv()
                if message.type == "Results":
                    break
                assert message.type == "SpeechStarted"
            assert (message.from_finalize, message.is_final) == (True, True)
            assert message.channel.alternatives[0].transcript == SPOKEN
        socket.send_finalize()
        assert socket.recv().channel.alternatives[0].transcript == ""


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("encoding=opus", "encoding"),
        ("encoding=linear16", "sample_rate"),
        ("encoding=linear16&sample_rate=1", "sample_rate"),
        ("encoding=linear16&sample_rate=16000&diarize=true", "diarize"),
        ("encoding=linear16&sample_rate=16000&smart_format=true", "smart_format"),
        ("encoding=linear16&sample_rate=16000&callback=http://127.0.0.1/", "callback"),
        ("encoding=linear16&sample_rate=16000&channels=2", "channels"),
        ("encoding=linear16&sample_rate=16000&endpointing=soon", "endpointing"),
        ("encoding=linear16&sample_rate=16000&keywords=nine:2", "keywords"),
        ("encoding=linear16&sample_rate=16000&interim_results=1", "interim_results"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(query: str, name: str) -> None:
    with pytest.raises(ApiError) as refused:
        ListenRequest.parse(QueryParams(query))
    assert refused.value.parameter == name


def test_a_refusal_comes_before_the_connection(served: Served) -> None:
    with pytest.raises(Exception, match="404"), connect(served, model="other"):
        pass
