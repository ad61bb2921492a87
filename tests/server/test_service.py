from __future__ import annotations

import pytest

from transformers_fastconformer.server.errors import ApiError
from transformers_fastconformer.server.options import ServerOptions
from transformers_fastconformer.server.service import Service


def test_the_key_comes_in_any_of_the_usual_ways() -> None:
    service = Service(ServerOptions(api_key="secret"))
    for headers in ({"authorization": "Bearer secret"}, {"authorization": "token secret"}, {"x-api-key": "secret"}):
        service.require_key(headers)
    service.require_key({}, ("secret",))
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": "Basic secret"}, {"x-api-key": "sécret"}):
        with pytest.raises(ApiError) as refused:
            service.require_key(headers)
        assert refused.value.status == 401
    service.close()
