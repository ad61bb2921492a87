"""Plain text."""

from __future__ import annotations

from records import make_record

from transformers_fastconformer.writers.text import format_text


def test_text() -> None:
    assert format_text(make_record()) == "Who <is> it? Go on;\n"
