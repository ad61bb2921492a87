from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np
import pytest
import soundfile
from served import CLIP

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.server.errors import ApiError
from transformers_fastconformer.server.uploads import BodyLimits, read_upload


def silence(seconds: float) -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(seconds * 8000), dtype=np.float32), 8000, format="FLAC")
    file.seek(0)
    return file


def test_a_short_upload_becomes_samples_and_a_long_one_stays_a_file() -> None:
    with open(CLIP, "rb") as file:
        short = read_upload(file, 16000, 60.0)
    assert np.array_equal(short.clip.source["raw"], read_audio(CLIP))
    assert short.seconds == pytest.approx(short.clip.source["raw"].shape[0] / 16000)
    long = read_upload(silence(61.0), 16000, 100.0)
    assert long.seconds == pytest.approx(61.0)
    assert long.clip.source.read(4) == b"fLaC"


def test_a_small_file_of_hours_is_not_decoded_to_its_end() -> None:
    with pytest.raises(ApiError, match="longer than 10 s") as refused:
        read_upload(silence(1000.0), 16000, 10.0)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.wav\n", b"RIFF" + b"\0" * 60]
)
def test_what_is_not_audio_is_the_fault_of_the_file(content: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        read_upload(io.BytesIO(content), 16000, 10.0)
    assert (refused.value.parameter, refused.value.code, refused.value.status) == ("file", "invalid_audio", 400)


def run_limits(messages: list[dict[str, Any]], headers: Any = (), pause: float = 0.0) -> Any:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
        except ApiError as error:
            await error.to_response()(scope, receive, send)

    async def receive() -> Any:
        await asyncio.sleep(pause)
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": list(headers)}
    asyncio.run(BodyLimits(app, 10, 0.05)(scope, receive, send))
    return sent[0]["status"] if sent else None


def test_bodies_are_limited_in_bytes_and_time() -> None:
    def piece(size: int, more: bool) -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * size, "more_body": more}

    assert run_limits([piece(5, True), piece(5, False)]) is None
    assert run_limits([piece(5, True), piece(6, False)]) == 413
    assert run_limits([], [(b"content-length", b"11")]) == 413
    assert run_limits([piece(1, True), piece(1, True), piece(1, False)], pause=0.04) == 408
