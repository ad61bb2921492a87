"""Messages of the commands on the standard error."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from .streams import escape_controls


def show_error(error: Exception) -> None:
    """Print an error in one line."""
    line = escape_controls(" ".join(str(error).split("\n")))
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(line)}", soft_wrap=True)


def say(line: str) -> None:
    """Print a line that is not an error."""
    Console(stderr=True, highlight=False).print(escape_controls(line), markup=False, soft_wrap=True)
