"""`/stream`: live text in the form of this package, for the page and for programs of one's own."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..streaming.text import StreamWord
from ..streaming.updates import StreamUpdate
from .errors import ApiError, error_of, refused_field
from .fields import check_keywords
from .live import DELAYS, LiveRequest, LiveStream
from .live_socket import (
    ENCODINGS,
    AudioBytes,
    close,
    may_open,
    offered_protocols,
    parse_message,
    receive,
    take_rate,
    take_text,
    take_texts,
)
from .service import Service

PROTOCOL = "stream"
START_FIELDS = (
    "type", "api_key", "model", "sampling_rate", "encoding", "language", "languages", "keywords", "delay",
)  # fmt: skip


class StreamApi:
    """
    The endpoint.

    Args:
        service: Models and live streams.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def serve(self, socket: WebSocket) -> None:
        """
        Serve a connection.

        The client sends `{"type": "start", ...}`, then audio in binary messages, `{"type": "commit"}` as often as it
        likes and `{"type": "finish"}`; each of them is answered by an update, the last of which is final.
        """
        key = socket.query_params.get("api_key")
        if not await may_open(socket, self._service, (key,)):
            return
        # Of those that a browser offers one must be taken; another one may hold the key.
        await socket.accept(PROTOCOL if PROTOCOL in offered_protocols(socket) else None)
        stream = None
        try:
            with suppress(WebSocketDisconnect):
                seconds = self._service.options.idle_seconds
                message = await receive(socket, seconds)
                if isinstance(message, bytes):
                    raise ApiError('Expected {"type": "start"} first.', code="invalid_message")
                request, encoding = _parse_start(parse_message(message))
                stream = await asyncio.to_thread(self._service.streams.open, request)
                await socket.send_json(
                    {
                        "type": "started",
                        "model": stream.request.model,
                        "sampling_rate": request.sampling_rate,
                        "latency_ms": stream.latency_ms,
                    }
                )
                await self._run(socket, stream, AudioBytes(encoding))
        except Exception as error:
            found = error_of(error)
            if found.status == 500:
                raise
            with suppress(RuntimeError, WebSocketDisconnect):  # it has left meanwhile
                await socket.send_json({"type": "error", "error": found.body})
                await close(socket, found)
        finally:
            if stream is not None:
                await stream.close()

    async def _run(self, socket: WebSocket, stream: LiveStream, audio: AudioBytes) -> None:
        while True:
            message = await receive(socket, self._service.options.idle_seconds)
            if isinstance(message, bytes):
                for piece in stream.pieces(audio.to_samples(message)):
                    update = await stream.push(piece)
                    self._service.metrics.lag.observe(update.lag_seconds)
                    await socket.send_json(describe_update(update))
                continue
            kind = parse_message(message)["type"]
            if kind == "commit":
                await socket.send_json(describe_update(await stream.commit()))
            elif kind == "finish":
                update = await stream.finish()
                self._service.metrics.audio_seconds.labels("live").inc(update.heard_seconds)
                await socket.send_json(describe_update(update))
                await socket.close()
                return
            else:
                raise ApiError(f"type={kind[:50]!r} is not supported; expected commit or finish.", 400, "type")


def _parse_start(given: dict[str, Any]) -> tuple[LiveRequest, str]:
    if given["type"] != "start":
        raise ApiError(f"type={given['type'][:50]!r} is not supported; expected start first.", 400, "type")
    for name in given:
        if name not in START_FIELDS:
            raise refused_field(name[:50], f"expected some of {', '.join(START_FIELDS)}.")
    encoding = take_text(given, "encoding") or "pcm16"
    if encoding not in ENCODINGS:
        raise ApiError(f"encoding={encoding[:50]!r}; expected one of {', '.join(ENCODINGS)}.", 400, "encoding")
    return LiveRequest(
        model=take_text(given, "model"),
        sampling_rate=take_rate(given.get("sampling_rate", 16000), "sampling_rate"),
        language=take_text(given, "language"),
        languages=take_texts(given, "languages"),
        keywords=check_keywords(take_texts(given, "keywords")),
        delay=take_delay(given),
    ), encoding


def take_delay(given: dict[str, Any]) -> str | None:
    """The `delay` of a message."""
    delay = take_text(given, "delay")
    if delay is not None and delay not in DELAYS:
        raise ApiError(f"delay={delay[:50]!r} is not supported; expected one of {', '.join(DELAYS)}.", 400, "delay")
    return delay


def describe_update(update: StreamUpdate) -> dict[str, Any]:
    """An update as JSON."""
    return {
        "type": "final" if update.is_final else "update",
        "committed": update.committed,
        "tentative": update.tentative,
        "words": [describe_word(word) for word in update.words],
        "heard_seconds": round(update.heard_seconds, 3),
        "lag_ms": round(1000 * update.lag_seconds, 1),
    }


def describe_word(word: StreamWord) -> dict[str, Any]:
    """A word with its times."""
    return {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
