"""
Our docstrings to reStructuredText: code is in single backticks or fences there, and [`Name`] is a link to a class.

Names of the package's `__all__` are links wherever they stand in backticks.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

import transformers_fastconformer

CODE = re.compile(r"\[`~?(?P<link>[^`\n]+)`\]|(?<!`)`(?P<code>[^`\n]+)`(?!`)")
PACKAGE = transformers_fastconformer.__name__


def format_code(found: re.Match[str]) -> str:
    """A link for a public name, and code for everything else."""
    text = found["link"] or found["code"]
    name, _, member = text.partition(".")
    if name in transformers_fastconformer.__all__ and (not member or member.isidentifier()):
        return f":py:obj:`{text} <{PACKAGE}.{text}>`"
    if found["link"]:
        text = text.rpartition(".")[2]
    return f"``{text}``"


def rewrite(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite one docstring in place."""
    rewritten: list[str] = []
    is_code = False
    for line in lines:
        if line.strip().startswith("```"):
            is_code = not is_code
            rewritten += [f".. code-block:: {line.strip()[3:] or 'text'}", ""] if is_code else [""]
        else:
            rewritten.append(f"    {line}" if is_code else CODE.sub(format_code, line))
    lines[:] = rewritten


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", rewrite, priority=100)  # napoleon has 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
