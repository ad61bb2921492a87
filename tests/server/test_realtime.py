"""Transcription sessions, as the `openai` package and other clients of the API open them."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
import soundfile
from openai import OpenAI
from served import CLIP, Served
from websockets.sync.client import connect

from transformers_fastconformer.audio.files import read_audio

SPOKEN = "three one four one five nine"
PREFIX = "conversation.item.input_audio_transcription"


def audio_of(sampling_rate: int, silence_seconds: float = 0.0) -> bytes:
    samples = np.concatenate([read_audio(CLIP, sampling_rate), np.zeros(int(silence_seconds * sampling_rate))])
    return (samples * 32767).astype("<i2").tobytes()


def to_ulaw(data: bytes) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.frombuffer(data, dtype="<i2"), 8000, format="RAW", subtype="ULAW")
    return file.getvalue()


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def session(model: str = "demo", rate: int = 24000, **more: Any) -> dict[str, Any]:
    transcription = {"model": model, **more.pop("transcription", {})}
    given = {"format": {"type": "audio/pcm", "rate": rate}, "transcription": transcription, **more}
    return {"type": "transcription", "audio": {"input": given}}


@pytest.mark.parametrize("rate", [16000, 24000])
def test_manual_commits_with_the_openai_package(client: OpenAI, rate: int) -> None:
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(
            session=session(rate=rate, turn_detection=None, transcription={"keywords": ["nine"], "delay": "low"})
        )
        assert connection.recv().type == "session.updated"
        data = audio_of(rate)
        for _ in range(2):
            for start in range(0, len(data), 9601):
                connection.input_audio_buffer.append(audio=encode(data[start : start + 9601]))
            connection.input_audio_buffer.commit()
            deltas, item = "", None
            for event in connection:
                if event.type == f"{PREFIX}.delta":
                    deltas += event.delta
                if event.type == "input_audio_buffer.committed":
                    item = event.item_id
                if event.type == f"{PREFIX}.completed":
                    break
            assert event.transcript == deltas.strip() == SPOKEN
            assert event.item_id == item
            assert event.usage.seconds == 3
        connection.input_audio_buffer.commit()  # of nothing
        assert [connection.recv().type for _ in range(3)][-1] == f"{PREFIX}.completed"


def test_pauses_end_items(client: OpenAI) -> None:
    with client.realtime.connect() as connection:
        connection.recv()
        vad = {"type": "server_vad", "silence_duration_ms": 600, "threshold": 0.5, "prefix_padding_ms": 100}
        connection.session.update(session=session(turn_detection=vad))
        connection.recv()
        connection.input_audio_buffer.append(audio=encode(audio_of(24000, 1.5) * 2))
        kinds, texts, started = [], [], []
        while len(texts) < 2:
            event = connection.recv()
            kinds.append(event.type)
            if event.type == f"{PREFIX}.completed":
                texts.append(event.transcript)
            if event.type == "input_audio_buffer.speech_started":
                started.append(event.audio_start_ms)
        assert texts[0] == SPOKEN
        # After a second of digital silence the model mishears a first word, in files too.
        assert texts[1].split()[1:] == SPOKEN.split()[1:]
        assert started[0] < 1000 < 3000 < started[1] < 5000
        assert kinds.count("input_audio_buffer.speech_stopped") == 2
        connection.input_audio_buffer.clear()
        assert connection.recv().type == "input_audio_buffer.cleared"


def test_the_beta_form_and_g711(served: Served) -> None:

    headers = {"Authorization": "Bearer secret", "OpenAI-Beta": "realtime=v1"}
    url = f"ws://127.0.0.1:{served.port}/v1/realtime?intent=transcription&model=demo"
    with connect(url, additional_headers=headers) as socket:
        assert json.loads(socket.recv())["type"] == "transcription_session.created"
        update = {
            "input_audio_format": "g711_ulaw",
            "input_audio_transcription": {"model": "demo", "language": "en"},
            "turn_detection": None,
        }
        socket.send(json.dumps({"type": "transcription_session.update", "session": update}))
        assert json.loads(socket.recv())["session"]["input_audio_format"] == "g711_ulaw"
        data = to_ulaw(audio_of(8000))
        socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": encode(data)}))
        socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        for message in socket:
            event = json.loads(message)
            if event["type"] == f"{PREFIX}.completed":
                break
        assert len(event["transcript"].split()) == 6  # the telephone's band: not all words need be right
        assert event["languages"] == [{"code": "en"}]


def test_the_form_of_vllm(served: Served) -> None:
    url = f"ws://127.0.0.1:{served.port}/v1/realtime"
    with connect(url, additional_headers={"Authorization": "Bearer secret"}) as socket:
        assert json.loads(socket.recv())["type"] == "session.created"
        socket.send(json.dumps({"type": "session.update", "model": "demo"}))
        socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": encode(audio_of(16000))}))
        socket.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))
        deltas = ""
        for message in socket:
            event = json.loads(message)
            if event["type"] == "transcription.done":
                break
            assert event["type"] == "transcription.delta"
            deltas += event["delta"]
        assert event["text"] == deltas.strip() == SPOKEN


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ({"type": "response.create"}, "type"),
        ({"type": "input_audio_buffer.append", "audio": "*"}, "audio"),
        ({"type": "input_audio_buffer.append"}, "audio"),
        ({"type": "session.update", "session": 3}, "session"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "session.type"),
        ({"type": "session.update", "session": {"type": "transcription", "voice": "x"}}, "session.voice"),
        ({"type": "session.update", "session": {"include": ["x"]}}, "include"),
        ({"type": "session.update", "session": session(rate=44100)}, "format.rate"),
        ({"type": "session.update", "session": session("other")}, "model"),
        ({"type": "session.update", "session": session(transcription={"prompt": "a"})}, "prompt"),
        ({"type": "session.update", "session": session(transcription={"delay": "none"})}, "delay"),
        ({"type": "session.update", "session": session(noise_reduction={"type": "near_field"})}, "noise_reduction"),
        ({"type": "session.update", "session": session(turn_detection={"type": "semantic_vad"})}, "turn_detection"),
    ],
)
def test_what_is_not_honoured_is_named_and_the_session_goes_on(served: Served, event: Any, name: str) -> None:
    url = f"ws://127.0.0.1:{served.port}/v1/realtime"
    with connect(url, additional_headers={"Authorization": "Bearer secret"}) as socket:
        socket.recv()
        socket.send(json.dumps({**event, "event_id": "mine"}))
        error = json.loads(socket.recv())
        assert error["type"] == "error"
        assert (error["error"]["param"], error["error"]["event_id"]) == (name, "mine")
        socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        assert json.loads(socket.recv())["type"] == "input_audio_buffer.cleared"
