"""Uploads: limits on the body of a request, and its audio, read in bounded memory."""

from __future__ import annotations

import asyncio
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..audio.files import AudioFile
from ..inference.reading import PACKED_SECONDS, AudioClip
from ..validation import reading
from .errors import ApiError

FILE_NAME = "file"


class BodyLimits:
    """
    Limits on the bodies of requests: bytes, and the time that they take to come.

    Args:
        app: The application.
        max_bytes: Bytes, at most.
        seconds: Time, at most.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await self._too_large().to_response()(scope, receive, send)
            return
        num_bytes, is_whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._seconds

        async def limited() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()
            remaining = deadline - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(remaining, 0.001))
            except asyncio.TimeoutError:
                raise ApiError(
                    f"The body did not come within {self._seconds:g} s.", 408, code="request_timeout"
                ) from None
            num_bytes += len(message.get("body", b""))
            is_whole = message["type"] != "http.request" or not message.get("more_body", False)
            if num_bytes > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, limited, send)

    def _too_large(self) -> ApiError:
        return ApiError(
            f"The body is larger than {self._max_bytes} bytes, the limit of this server.",
            413,
            "file",
            "file_too_large",
        )


class ReadAudio(NamedTuple):
    """
    The audio of an upload.

    Args:
        clip: Samples of a short recording, or the open file of a long one.
        seconds: Its length.
    """

    clip: AudioClip
    seconds: float


def read_upload(file: BinaryIO, sampling_rate: int, max_seconds: float) -> ReadAudio:
    """
    Decode an upload once: a short one is kept as samples, of a long one only the length.

    Args:
        file: The open file.
        sampling_rate: Rate of the model, in Hz.
        max_seconds: Longest recording. What goes beyond is not decoded.

    Raises:
        ApiError: for a longer one, and for what is not audio.
        ImportError: the extra `audio` is not installed.
    """
    kept: list[np.ndarray] = []
    num_samples = 0
    try:
        with reading(FILE_NAME, "an audio or video file"):
            for block in AudioFile(_Named(file)).blocks(sampling_rate):  # type: ignore[arg-type]
                num_samples += block.shape[0]
                if num_samples > max_seconds * sampling_rate:
                    raise ApiError(
                        f"file is longer than {max_seconds:g} s, the limit of this server.",
                        413,
                        FILE_NAME,
                        "audio_too_long",
                    )
                if num_samples <= PACKED_SECONDS * sampling_rate:
                    kept.append(block)
                else:
                    kept.clear()
    except ValueError as error:
        if isinstance(error.__cause__, ApiError):
            raise error.__cause__ from None
        raise ApiError(str(error), 400, FILE_NAME, "invalid_audio") from error
    seconds = num_samples / sampling_rate
    if num_samples <= PACKED_SECONDS * sampling_rate:
        samples: Any = {"raw": np.concatenate(kept), "sampling_rate": sampling_rate}
        return ReadAudio(AudioClip(samples, label=FILE_NAME), seconds)
    file.seek(0)
    return ReadAudio(AudioClip(_Named(file), label=FILE_NAME), seconds)


class _Named:
    """An open file whose name in messages is that of the field, not a path or a number of the server."""

    name = FILE_NAME

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)
