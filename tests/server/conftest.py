"""One server for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI
from served import Served, serving


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    with serving(api_key="secret") as running:
        yield running


@pytest.fixture(scope="session")
def client(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.address}/v1", api_key="secret", max_retries=0)
