"""The `fastconformer` command: puts the subcommands together and turns errors into one clear line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer
from transformers.utils import logging as transformers_logging

from ..version import __version__
from .cache import cache
from .convert import convert
from .demo import demo
from .doctor import doctor
from .errors import say, show_error
from .exit_codes import ExitCode, exit_code_of
from .inspect import inspect
from .transcribe import transcribe

app = typer.Typer(
    epilog="Exit codes: 0 done, 1 some inputs failed, 2 used wrongly, 3 the environment lacks something "
    "(`fastconformer doctor` tells what), 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(transcribe)
app.command()(convert)
app.command()(inspect)
app.command()(demo)
app.command()(doctor)
app.add_typer(cache, name="cache")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """NVIDIA's FastConformer speech models in Hugging Face Transformers, without NeMo."""


def run(command: Callable[[], Any]) -> None:
    """Run a command; an error that a user can mend becomes one line and an exit code, not a traceback."""
    transformers_logging.disable_progress_bar()
    try:
        command()
    except (ValueError, OSError, ImportError) as error:
        show_error(error)
        sys.exit(exit_code_of(error))
    except SystemExit as end:
        if end.code == ExitCode.INTERRUPTED:
            say("Interrupted.")
        raise


def main() -> None:
    """Entry point of the `fastconformer` command."""
    run(app)


if __name__ == "__main__":
    main()
