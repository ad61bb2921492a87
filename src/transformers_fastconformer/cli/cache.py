"""`fastconformer cache`: the converted checkpoints that are kept, and how to be rid of them."""

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

from ..nemo.cache import CachedConversion, cache_folder, clear_conversions, list_conversions
from ..nemo.convert import CONVERSION_FORMAT

DIGEST_CHARACTERS = 12
SECONDS_OF_UNIT = (("day", 86400), ("hour", 3600), ("minute", 60))

cache = typer.Typer(help="List and clear what was converted on the way.", no_args_is_help=True)

CacheDir = Annotated[
    Path | None, typer.Option("--cache_dir", help="The cache_dir that was given when loading, if one was.")
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
            _describe_bytes(entry.num_bytes),
            _describe_age(time.time() - entry.last_used),
            entry.digest[:DIGEST_CHARACTERS],
        )
    console.print(table)
    total = _describe_bytes(sum(entry.num_bytes for entry in entries))
    console.print(f"{_count(len(entries))}, {total}, in {cache_folder(cache_dir)}", soft_wrap=True)


@cache.command("clear")
def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Hub repositories, paths or digests as `list` shows them; everything without any."),
    ] = None,
    cache_dir: CacheDir = None,
) -> None:
    """Remove converted checkpoints. The .nemo files stay; loading converts them anew."""
    removed = clear_conversions(names, cache_dir)
    console = Console(highlight=False)
    for entry in removed:
        source = entry.sources[-1] if entry.sources else entry.digest
        console.print(f"Removed {escape(source)} ({_describe_bytes(entry.num_bytes)}).", soft_wrap=True)
    console.print(f"{_count(len(removed))}, {_describe_bytes(sum(entry.num_bytes for entry in removed))} freed.")


@cache.command("path")
def show_path(cache_dir: CacheDir = None) -> None:
    """Print the folder of the cache."""
    typer.echo(cache_folder(cache_dir))


def _describe_class(entry: CachedConversion) -> str:
    is_old = entry.format != CONVERSION_FORMAT
    return (entry.architecture or "?") + (" (of another version of this package)" if is_old else "")


def _describe_bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"


def _describe_age(seconds: float) -> str:
    for unit, unit_seconds in SECONDS_OF_UNIT:
        count = int(seconds // unit_seconds)
        if count:
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def _count(number: int) -> str:
    return f"{number} checkpoint{'' if number == 1 else 's'}"
