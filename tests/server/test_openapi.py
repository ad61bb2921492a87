from __future__ import annotations

import re

from transformers_fastconformer.server.fields import LIST_FIELDS, TEXT_FIELDS
from transformers_fastconformer.server.openapi import describe_api, write_docs


def test_every_field_that_is_read_is_described() -> None:
    body = describe_api()["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]
    fields = body["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(fields) == {"file", *TEXT_FIELDS, *LIST_FIELDS}


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = write_docs(describe_api())
    assert "/v1/audio/transcriptions" in page
    assert not re.search(r"https?://|//[a-z]", page)
