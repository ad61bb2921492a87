"""The page for people: one file, which loads nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path

# Scripts and styles are in the page itself, the tap of the microphone is a script that the page makes.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; style-src 'unsafe-inline'; "
    "connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def read_page() -> str:
    """The page."""
    return (Path(__file__).parent / "index.html").read_text(encoding="utf-8")
