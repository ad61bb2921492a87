"""An update of a stream: nothing is new unless it says so, and it cannot be changed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from transformers_fastconformer import StreamUpdate


def test_an_update_without_news_has_none() -> None:
    update = StreamUpdate()
    assert (update.committed, update.tentative, update.is_final) == ("", "", False)
    assert not any((update.words, update.tentative_words, update.tokens, update.endpoints))
    with pytest.raises(FrozenInstanceError):
        update.committed = "a"  # type: ignore[misc]
