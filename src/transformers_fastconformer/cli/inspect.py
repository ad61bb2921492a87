"""`fastconformer inspect`: describes a checkpoint and the result of its conversion."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..inference.loading import DEMONSTRATION_NAMES, checkpoint_of_name
from ..nemo.inspection import Inspection, inspect_checkpoint
from .exit_codes import ExitCode, failing_as_input

# Number of names that are shown of a long list.
MAX_NAMES = 6


def inspect(
    model: Annotated[
        str,
        typer.Option(
            help="A .nemo file, a folder that holds one, a Hub repository, or a folder of this package; "
            f"{', '.join(DEMONSTRATION_NAMES)}: the spoken-digit models of the package."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="All facts as JSON, for programs.")] = False,
    encoder_only: Annotated[
        bool, typer.Option("--encoder_only", help="Tell what a conversion of only the encoder would make.")
    ] = False,
) -> None:
    """Tell what a checkpoint is, without loading its weights.

    The exit code is 1 for a checkpoint that cannot be converted.
    """
    source = checkpoint_of_name(model)
    with failing_as_input():
        found = inspect_checkpoint(source, encoder_only=encoder_only)
    if as_json:
        content = {**asdict(found), "is_convertible": found.is_convertible}
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False, default=str))
    else:
        _show(Console(highlight=False), found)
    if not found.is_convertible:
        raise typer.Exit(ExitCode.INPUTS_FAILED)


def _show(console: Console, found: Inspection) -> None:
    _show_summary(console, found)
    _show_details(console, found)
    if found.is_converted:
        console.print("[bold green]In the form of this package.[/]")
    elif found.refusal is None:
        console.print("[bold green]Convertible.[/]")
    else:
        console.print(f"[bold red]Refused:[/] {escape(found.refusal)}", soft_wrap=True)


def _show_summary(console: Console, found: Inspection) -> None:
    table = Table(title=escape(found.source), title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def add(name: str, value: object) -> None:
        if value not in (None, ""):
            table.add_row(name, escape(str(value)))

    version = f", saved by NeMo {found.nemo_version}" if found.nemo_version else ""
    if not found.is_converted:
        add("class in NeMo", f"{found.nemo_class or 'not told'}{version}")
    add("family", found.family)
    add("class" if found.is_converted else "becomes", found.architecture)
    size = _in_words(found.archive_bytes, "bytes", (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)))
    add("files" if found.is_converted else "archive", size)
    if found.num_parameters is not None:
        add("parameters", _in_words(found.num_parameters, "", (("billion", 1e9), ("million", 1e6))))
    add("weights", found.dtype)
    for name, value in found.sizes.items():
        add(name, value)
    add("tokenizer", found.tokenizer)
    add("languages", ", ".join(found.languages))
    console.print(table)


def _show_details(console: Console, found: Inspection) -> None:
    if found.options:
        options = Table(title="Options that are not the usual ones", title_justify="left")
        for name in ("option", "here", "usually"):
            options.add_column(name, overflow="fold")
        for name, (value, usual) in found.options.items():
            options.add_row(name, escape(str(value)), escape(str(usual)))
        console.print(options)
    if found.parts_left_out:
        parts = Table("part", "holds", title="Parts that are not converted", title_justify="left")
        for name, content in found.parts_left_out.items():
            parts.add_row(escape(name), escape(content))
        console.print(parts)
    if found.dropped:
        dropped = Table(title="Dropped, as it changes nothing", title_justify="left")
        dropped.add_column("why", overflow="fold")
        dropped.add_column("what", overflow="fold")
        for reason, names in found.dropped.items():
            more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            dropped.add_row(escape(reason), escape(", ".join(names[:MAX_NAMES]) + more))
        console.print(dropped)


def _in_words(number: int, unit: str, scales: tuple[tuple[str, float], ...]) -> str:
    for name, scale in scales:
        if number >= scale:
            return f"{number / scale:.3g} {name}"
    return f"{number} {unit}".strip()
