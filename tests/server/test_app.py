from __future__ import annotations

import json
import socket
import threading

import httpx
import pytest
from openai import OpenAI
from served import CLIP, Served, serving

from transformers_fastconformer.server import run

KEY = {"Authorization": "Bearer secret"}


def test_models_health_and_numbers(client: OpenAI, served: Served) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "demo-streaming"]
    assert client.models.retrieve("demo").owned_by == "transformers-fastconformer"
    health = httpx.get(f"{served.address}/health")
    assert health.json()["status"] == "ok"
    assert health.headers["x-content-type-options"] == "nosniff"
    assert "server" not in health.headers
    numbers = httpx.get(f"{served.address}/metrics", headers=KEY).text
    assert 'fastconformer_requests_total{path="/health",status="200"}' in numbers
    assert httpx.get(f"{served.address}/openapi.json").json()["openapi"].startswith("3.")
    assert "transcriptions" in httpx.get(f"{served.address}/docs").text


def test_the_key_is_asked_for_everywhere_else(served: Served) -> None:
    for path in ("/v1/models", "/metrics", "/nothing"):
        answer = httpx.get(served.address + path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx.get(f"{served.address}/nothing", headers=KEY).json()["error"]["message"] == (
        "/nothing is not served here."
    )
    assert httpx.get(f"{served.address}/v1/audio/transcriptions", headers=KEY).status_code == 405


def test_other_origins_are_not_let_in(served: Served) -> None:
    answer = httpx.get(f"{served.address}/health", headers={"Origin": "https://example.org"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_fault_of_the_server_does_not_show_its_inside(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("secret of the program")

    monkeypatch.setattr(served.service.files, "require_room", fail)
    answer = httpx.post(f"{served.address}/v1/audio/transcriptions", headers=KEY, files={"file": b"x"})
    assert answer.status_code == 500
    assert "secret of" not in answer.text
    assert answer.json()["error"]["code"] == "internal_error"


def test_hostile_clients_are_cut_off_and_the_next_one_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.3)
    with serving(max_upload_bytes=200_000, upload_seconds=0.5, cors_origins=("https://example.org",)) as served:

        def send(content: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
                connection.sendall(content)
                return connection.recv(4096)

        head = (
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        )
        assert send(b"") == b""  # silent from the start
        assert send(b"GET / HTTP/1.1\r\nX: ") == b""  # headers without an end
        assert b" 400 " in send(b"\x16\x03\x01rubbish\r\n\r\n")
        assert b" 400 " in send(b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n")
        assert b" 413 " in send(head + b"Content-Length: 999999\r\n\r\n")
        assert b" 408 " in send(head + b"Content-Length: 1000\r\n\r\n--x\r\n")
        assert b" 400 " in send(head + b"Content-Length: 5\r\n\r\nhello")
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n--x\r\n")  # gone in the middle
        with open(CLIP, "rb") as file:
            answer = httpx.post(
                f"{served.address}/v1/audio/transcriptions",
                files={"file": file},
                headers={"Origin": "https://example.org"},
            )
        assert answer.json()["text"] == "three one four one five nine"
        assert answer.headers["access-control-allow-origin"] == "https://example.org"


def test_a_client_that_leaves_is_dropped(served: Served) -> None:
    files = served.service.files
    with served.service.turn.live():  # nothing is done meanwhile
        url = f"{served.address}/v1/audio/transcriptions"
        with open(CLIP, "rb") as file, pytest.raises(httpx.ReadTimeout):
            httpx.post(url, headers=KEY, files={"file": file}, timeout=httpx.Timeout(5, read=0.5))
        pause = threading.Event()
        for _ in range(100):
            if all(job.is_dropped for job in [*files._running, *files._waiting]):
                break
            pause.wait(0.05)
        assert all(job.is_dropped for job in [*files._running, *files._waiting])
    assert json.loads(httpx.get(f"{served.address}/health").text)["status"] == "ok"
