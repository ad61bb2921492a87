from __future__ import annotations

import httpx
import pytest
from served import serving

from transformers_fastconformer.server.options import ServedModel, ServerOptions
from transformers_fastconformer.server.run import serve
from transformers_fastconformer.server.service import Service


def test_a_server_ends_with_its_threads() -> None:
    with serving(models=[ServedModel("demo", "demo")]) as served:
        assert httpx.get(f"{served.address}/health").status_code == 200
        thread = served.service.files._thread
    assert not thread.is_alive()


def test_an_address_that_is_taken_is_an_error() -> None:
    with serving() as served:
        service = Service(ServerOptions(device="cpu"))
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            serve(service, "127.0.0.1", served.port)
        service.close()
