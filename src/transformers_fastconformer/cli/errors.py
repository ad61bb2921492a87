"""How the commands tell what went wrong."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape


def show_error(error: Exception) -> None:
    """One line on the standard error."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
