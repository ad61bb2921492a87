"""`fastconformer doctor`: tells what is installed, what is missing and how fast this machine is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .doctor_facts import Facts, Package, collect_facts
from .exit_codes import ExitCode
from .quantities import describe_bytes


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="All facts as JSON, for programs.")] = False,
) -> None:
    """Tell what is installed, what is missing and how to have it, and how fast this machine is.

    The exit code is 3 if something is missing that is always needed.
    """
    facts = collect_facts()
    if as_json:
        content = {**asdict(facts), "problems": facts.problems, "missing_extras": facts.missing_extras}
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show_facts(Console(highlight=False), facts)
    if facts.problems:
        raise typer.Exit(ExitCode.ENVIRONMENT_LACKS)


def show_facts(console: Console, facts: Facts) -> None:
    """Print tables of packages and of the machine, and the steps to take."""
    console.print(f"transformers-fastconformer {facts.version}, Python {facts.python}, {facts.system}", soft_wrap=True)
    packages = Table("package", "installed", "expected", "needed for", title="Packages", title_justify="left")
    for package in facts.packages:
        needed_for = "everything" if package.extra is None else f"extra {package.extra}"
        packages.add_row(package.name, _describe_installed(package), escape(package.required), needed_for)
    if facts.packages:
        console.print(packages)
    else:
        console.print("The package itself is not installed, so what it needs is not known.")
    machine = Table(title="Machine", title_justify="left", show_header=False)
    machine.add_column(style="bold", no_wrap=True)
    machine.add_column(overflow="fold")
    for name, value in _describe_machine(facts):
        machine.add_row(name, escape(value))
    console.print(machine)
    for name, command in facts.missing_extras.items():
        console.print(f"For the extra {name}: {command}", markup=False, soft_wrap=True)
    for problem in facts.problems:
        console.print(f"[bold red]Missing:[/] {escape(problem)}", soft_wrap=True)
    if not facts.problems:
        console.print("[bold green]Nothing that is always needed is missing.[/]")


def _describe_installed(package: Package) -> str:
    if package.is_right:
        return escape(package.version or "")
    style = "bold red" if package.extra is None else "yellow"
    return f"[{style}]{escape(package.version or 'missing')}[/]"


def _describe_machine(facts: Facts) -> list[tuple[str, str]]:
    cpu, cache, hub, speed = facts.cpu, facts.cache, facts.hub, facts.speed
    if hub.is_offline:
        state = f"not asked, {hub.reason}"
    else:
        state = "reachable" if hub.is_reachable else f"not reachable ({hub.reason})"
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in speed.matrix_gflops.items())
    rows = [
        *((device.name, device.description) for device in facts.devices),
        ("CPU cores", f"{cpu.num_cores}, of which torch uses {cpu.num_threads}; {cpu.vectors}"),
        (
            "bfloat16",
            "multiplied by the CPU itself" if cpu.has_bfloat16_products else "not multiplied by the CPU itself",
        ),
        (
            "8-bit weights",
            "multiplied by the CPU itself (--dtype int8, checkpoints stored in 8 bits)"
            if cpu.has_int8_products
            else "not multiplied by the CPU itself: --dtype int8 saves memory, not time",
        ),
        ("cache", f"{cache.folder}: {describe_bytes(cache.num_bytes)}; {describe_bytes(cache.free_bytes)} are free"),
        ("Hub", f"{hub.address}: {state}"),
        ("matrix products", f"{rates} GFLOP/s ({speed.device}{_note_on_int8(facts)})"),
    ]
    if speed.real_time_factor is not None:
        rows.append(("demonstration", f"{speed.real_time_factor:,.0f}x real time ({speed.device})"))
    return rows


def _note_on_int8(facts: Facts) -> str:
    return ", int8 on the CPU" if "int8" in facts.speed.matrix_gflops and facts.speed.device != "cpu" else ""
