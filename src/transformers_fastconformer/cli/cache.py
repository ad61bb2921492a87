"""`fastconformer cache`: lists and removes the converted checkpoints in the cache."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..checkpoints.store import (
    CONVERSION_FORMAT,
    CachedConversion,
    cache_folder,
    clear_conversions,
    list_conversions,
)
from .quantities import describe_age, describe_bytes

DIGEST_CHARACTERS = 12

cache = typer.Typer(help="List and remove converted checkpoints.", no_args_is_help=True)

CacheDir = Annotated[
    Path | None, typer.Option("--cache_dir", help="The cache_dir that was given when the model was loaded.")
]


@cache.command("list")
def show_list(
    cache_dir: CacheDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
) -> None:
    """List the converted checkpoints: where they came from, their size, when they were used last."""
    entries = list_conversions(cache_dir)
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(asdict(entry), default=str, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not entries:
        console.print(f"Nothing is in {cache_folder(cache_dir)}.", soft_wrap=True)
        return
    table = Table()
    table.add_column("converted from", overflow="fold")
    table.add_column("class", overflow="fold")
    for name in ("size", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    for entry in entries:
        table.add_row(
            escape("\n".join(reversed(entry.sources)) or "?"),
            escape(_describe_class(entry)),
            describe_bytes(entry.num_bytes),
            describe_age(time.time() - entry.last_used),
            entry.digest[:DIGEST_CHARACTERS],
        )
    console.print(table)
    total = describe_bytes(sum(entry.num_bytes for entry in entries))
    console.print(f"{_count(len(entries))}, {total}, in {cache_folder(cache_dir)}", soft_wrap=True)


@cache.command("clear")
def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Hub repositories, paths or digests, as `list` shows them. Without any, all are removed."),
    ] = None,
    cache_dir: CacheDir = None,
) -> None:
    """Remove converted checkpoints. The .nemo files stay; loading converts them anew."""
    removed = clear_conversions(names, cache_dir)
    console = Console(highlight=False)
    for entry in removed:
        source = entry.sources[-1] if entry.sources else entry.digest
        console.print(f"Removed {escape(source)} ({describe_bytes(entry.num_bytes)}).", soft_wrap=True)
    console.print(f"{_count(len(removed))}, {describe_bytes(sum(entry.num_bytes for entry in removed))} freed.")


@cache.command("path")
def show_path(cache_dir: CacheDir = None) -> None:
    """Print the folder of the cache."""
    typer.echo(cache_folder(cache_dir))


def _describe_class(entry: CachedConversion) -> str:
    is_old = entry.format != CONVERSION_FORMAT
    return (entry.architecture or "?") + (" (of another version of this package)" if is_old else "")


def _count(number: int) -> str:
    return f"{number} checkpoint{'' if number == 1 else 's'}"
