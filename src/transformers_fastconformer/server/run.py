"""A server that runs: uvicorn with limits on headers, time and connections."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import build_app, preload
from .service import Service
from .wyoming import WyomingServer

MAX_HEADER_BYTES = 32 * 1024
HEADER_SECONDS = 15.0
KEEP_ALIVE_SECONDS = 15
# Messages of live streams: a second of 48 kHz audio in base64 is 128 KiB.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_WAITING_MESSAGES = 16


class LimitedProtocol(H11Protocol):
    """A connection on which the first request must come in time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._end_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def _end_if_silent(self) -> None:
        if self.scope is None and not self.transport.is_closing():
            self.transport.close()


def make_server(service: Service, host: str, port: int, stop_seconds: float = 30.0) -> uvicorn.Server:
    """
    A server that is not started yet.

    Args:
        service: The service, which ends with the server.
        host, port: Where it listens; port 0: a free one.
        stop_seconds: Time that requests have to end when the server is asked to stop.
    """
    config = uvicorn.Config(
        build_app(service),
        host=host,
        port=port,
        http=LimitedProtocol,
        ws="websockets-sansio",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=service.options.max_connections,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(stop_seconds),
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_max_queue=MAX_WAITING_MESSAGES,
        ws_per_message_deflate=False,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
    )
    return uvicorn.Server(config)


def serve(service: Service, host: str, port: int, on_start: Any = None, wyoming_port: int | None = None) -> None:
    """
    Run until a signal asks to stop: no new connections, those there end, then all threads.

    Args:
        service: The service.
        host, port: Where it listens.
        on_start: Called with the address once it listens.
        wyoming_port: Port of the Wyoming protocol; None: it is not served.

    Raises:
        OSError: when the address cannot be had.
        ValueError, OSError: when the first model cannot be loaded.
    """
    # Both here, as uvicorn ends the process where they fail.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listening:
        preload(service)
        wyoming = None if wyoming_port is None else (WyomingServer(service), wyoming_port)
        asyncio.run(_run(make_server(service, host, port), listening, host, on_start, wyoming))


async def _run(
    server: uvicorn.Server,
    listening: socket.socket,
    host: str,
    on_start: Any,
    wyoming: tuple[WyomingServer, int] | None,
) -> None:
    if wyoming is not None:
        await wyoming[0].start(host, wyoming[1])
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    if server.started and on_start is not None:
        on_start(f"http://{host}:{listening.getsockname()[1]}")
    await serving
    if wyoming is not None:
        await wyoming[0].stop()
