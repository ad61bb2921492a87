from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest
from served import CLIP, Served, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from transformers_fastconformer.audio.files import read_audio

SPOKEN = "three one four one five nine"


def pcm(sampling_rate: int = 16000) -> bytes:
    return (read_audio(CLIP, sampling_rate) * 32767).astype("<i2").tobytes()


def open_stream(served: Served, **headers: str) -> Any:
    return connect(f"ws://127.0.0.1:{served.port}/stream?api_key=secret", additional_headers=headers, open_timeout=20)


def wait_until_all_are_closed(served: Served) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if not served.service.streams.num_open:
            return
        pause.wait(0.01)
    raise AssertionError(f"{served.service.streams.num_open} streams are open")


def hear(served: Served, **fields: Any) -> tuple[str, list[Any]]:
    with open_stream(served) as socket:
        socket.send(json.dumps({"type": "start", **fields}))
        assert json.loads(socket.recv())["type"] == "started"
        socket.send(pcm(fields.get("sampling_rate", 16000)))
        socket.send(json.dumps({"type": "finish"}))
        text, words = "", []
        for message in socket:
            update = json.loads(message)
            text += update["committed"]
            words += update["words"]
        assert update["type"] == "final"
        return text.strip(), words


def test_words_come_and_are_those_of_the_file(served: Served) -> None:
    text, words = hear(served, model="demo", keywords=["nine"])
    assert text == SPOKEN
    assert [word["word"] for word in words] == SPOKEN.split()
    assert hear(served, model="demo", sampling_rate=48000)[0] == SPOKEN


def test_a_commit_is_always_answered(served: Served) -> None:
    with open_stream(served) as socket:
        socket.send(json.dumps({"type": "start"}))
        socket.recv()
        for _ in range(2):
            socket.send(json.dumps({"type": "commit"}))
            assert json.loads(socket.recv()) == {
                "type": "update", "committed": "", "tentative": "", "words": [], "heard_seconds": 0.0, "lag_ms": 0.0
            }  # fmt: skip


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("rubbish", None),
        (b"\0\0", None),
        ({"type": "finish"}, "type"),
        ({"type": "start", "model": "other"}, "model"),
        ({"type": "start", "voice": "x"}, "voice"),
        ({"type": "start", "sampling_rate": 1}, "sampling_rate"),
        ({"type": "start", "encoding": "mp3"}, "encoding"),
        ({"type": "start", "delay": "none"}, "delay"),
        ({"type": "start", "language": "xx"}, "language"),
        ({"type": "start", "keywords": "nine"}, "keywords"),
    ],
)
def test_what_is_not_right_is_named_and_ends_the_stream(served: Served, message: Any, name: str | None) -> None:
    with open_stream(served) as socket:
        socket.send(json.dumps(message) if isinstance(message, dict) else message)
        error = json.loads(socket.recv())
        assert error["type"] == "error"
        assert error["error"]["param"] == name
        with pytest.raises(ConnectionClosed):
            socket.recv()
    wait_until_all_are_closed(served)


def test_who_may_not_open_one_is_not_let_in(served: Served) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{served.port}/stream")
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        open_stream(served, Origin="https://example.org")
    assert refused.value.response.status_code == 403


def test_clients_that_vanish_or_are_silent_give_their_places_back() -> None:
    with serving(max_streams=8, idle_seconds=1.0) as served:
        for _ in range(4):
            socket = open_stream(served)
            socket.send(json.dumps({"type": "start"}))
            socket.recv()
            socket.send(np.zeros(4000, dtype="<i2").tobytes())
            socket.socket.shutdown(2)  # without a word
        with open_stream(served) as first:
            first.send(json.dumps({"type": "start"}))
            assert json.loads(first.recv())["type"] == "started"
            assert json.loads(first.recv())["error"]["code"] == "idle_timeout"
        wait_until_all_are_closed(served)
        assert hear(served)[0] == SPOKEN
