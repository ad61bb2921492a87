"""A server in a thread of the tests, on the loopback address, and what its clients send."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.server.options import ServerOptions
from transformers_fastconformer.server.run import make_server
from transformers_fastconformer.server.service import Service

CLIP = CLIP_PATHS[0]


class Served:
    """A server that runs: its address, and its parts."""

    def __init__(self, service: Service, server: Any) -> None:
        self.service = service
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(**options: Any) -> Iterator[Served]:
    """A server with these fields of `ServerOptions`; its threads end with the block."""
    service = Service(ServerOptions(**{"device": "cpu", **options}))
    server = make_server(service, "127.0.0.1", 0, stop_seconds=2)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    pause = threading.Event()
    while not server.started:
        assert thread.is_alive(), "the server has not started"
        pause.wait(0.01)
    try:
        yield Served(service, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server has not stopped"
