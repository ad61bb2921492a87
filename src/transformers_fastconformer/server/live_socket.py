"""WebSockets of live streams: who may open one, audio in its encodings, and clients that say nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from .errors import ApiError
from .service import Service

KEY_PROTOCOL = "openai-insecure-api-key."
POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
MIN_RATE, MAX_RATE = 8000, 48000


def _expand_ulaw() -> np.ndarray:
    """Samples of the 256 codes of G.711's mu-law."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _expand_alaw() -> np.ndarray:
    """Samples of the 256 codes of G.711's A-law."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = (code & 0x70) >> 4, (code & 0x0F) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


G711 = {"ulaw": _expand_ulaw(), "alaw": _expand_alaw()}
ENCODINGS = ("pcm16", *G711)


class AudioBytes:
    """
    Bytes of audio that come in pieces of any size, as samples.

    Args:
        encoding: One of `ENCODINGS`.
    """

    def __init__(self, encoding: str) -> None:
        self._table = G711.get(encoding)
        self._rest = b""

    def to_samples(self, data: bytes) -> np.ndarray:
        """(samples,), 16-bit integers; half a sample waits for the next piece."""
        if self._table is not None:
            samples: np.ndarray = self._table[np.frombuffer(data, dtype=np.uint8)]
            return samples
        data = self._rest + data
        stop = len(data) - len(data) % 2
        self._rest = data[stop:]
        return np.frombuffer(data[:stop], dtype="<i2").astype(np.int16)


def offered_protocols(socket: WebSocket) -> list[str]:
    """Names of protocols that a client offers."""
    return [name.strip() for name in socket.headers.get("sec-websocket-protocol", "").split(",")]


async def may_open(socket: WebSocket, service: Service, others: tuple[str | None, ...] = ()) -> bool:
    """
    Check the key and the origin of a connection that is not accepted yet; one that may not is answered.

    Args:
        socket: The connection.
        service: The service.
        others: Keys that came another way.
    """
    keys = [name.removeprefix(KEY_PROTOCOL) for name in offered_protocols(socket) if name.startswith(KEY_PROTOCOL)]
    try:
        service.require_key(socket.headers, (*others, *keys))
        origin = socket.headers.get("origin")
        is_other = origin is not None and urlsplit(origin).netloc != socket.headers.get("host")
        if is_other and origin not in service.options.cors_origins:
            raise ApiError("Pages of this origin may not open streams here.", 403, code="forbidden_origin")
    except ApiError as error:
        await socket.send_denial_response(error.to_response())
        return False
    return True


async def receive(socket: WebSocket, seconds: float) -> str | bytes:
    """
    The next message.

    Raises:
        ApiError: none came in time.
        WebSocketDisconnect: the client has left.
    """
    try:
        message = await asyncio.wait_for(socket.receive(), seconds)
    except asyncio.TimeoutError:
        raise ApiError(f"Nothing came for {seconds:g} s.", 408, code="idle_timeout") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    text = message.get("text")
    return text if text is not None else message.get("bytes") or b""


def parse_message(text: str) -> dict[str, Any]:
    """
    A message as an object with a type.

    Raises:
        ApiError: for anything else.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise ApiError("The message cannot be read; expected a JSON object with a type.", code="invalid_json")
    return found


def take_texts(given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts of a message, without any where it is not there."""
    value = given.get(name) or ()
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ApiError(f"{name}: expected a list of texts.", 400, name, "invalid_value")
    return tuple(dict.fromkeys(one.strip() for one in value if one.strip()))


def take_text(given: Mapping[str, Any], name: str) -> str | None:
    """A text of a message; None where it is not there or empty."""
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise ApiError(f"{name}: expected a text.", 400, name, "invalid_value")
    return value or None


def take_rate(value: Any, name: str) -> int:
    """A sampling rate of a message."""
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_RATE <= value <= MAX_RATE:
        raise ApiError(f"{name}: expected an integer from {MIN_RATE} to {MAX_RATE} Hz.", 400, name, "invalid_value")
    return value


async def close(socket: WebSocket, error: ApiError) -> None:
    """Close a connection after an error that ends it."""
    code = TRY_AGAIN_LATER if error.status in (429, 503) else POLICY_VIOLATION
    await socket.close(code, error.message.encode()[:120].decode(errors="ignore"))
