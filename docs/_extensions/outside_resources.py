"""Refuses built pages that load anything from outside: scripts, styles, fonts, images. Links may lead there."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']((?:https?:)?//[^"']+)"""
    r"""|<link\b[^>]*?\bhref=["']((?:https?:)?//[^"']+)"""
    r"""|(?:@import\s+|url\()["']?((?:https?:)?//[^"')]+)""",
    re.IGNORECASE,
)


def check(app: Sphinx, exception: Exception | None) -> None:
    """Look at what was written."""
    if exception is not None or app.builder.format != "html":
        return
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        for found in LOADED.finditer(path.read_text(encoding="utf-8")):
            address = next(group for group in found.groups() if group)
            logging.getLogger(__name__).warning("%s loads %s", path.name, address)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
