"""Sizes and ages in words."""

from __future__ import annotations

import pytest

from transformers_fastconformer.cli.quantities import describe_age, describe_bytes


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (3.8e6, "3.8 MB"), (2.44e9, "2.4 GB")]
)
def test_bytes(number: float, words: str) -> None:
    assert describe_bytes(int(number)) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "just now"), (59, "just now"), (60, "1 minute ago"), (7200, "2 hours ago"), (2e5, "2 days ago")],
)
def test_ages(seconds: float, words: str) -> None:
    assert describe_age(seconds) == words
