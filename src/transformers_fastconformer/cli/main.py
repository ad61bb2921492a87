"""The `fastconformer` command: puts the subcommands together and turns errors into one clear line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer
from transformers.utils import logging as transformers_logging

from ..temporary_files import close_all
from ..version import __version__
from .allocator import keep_freed_memory
from .cache import cache
from .convert import convert
from .demo import demo
from .diarize import diarize
from .doctor import doctor
from .errors import say, show_error
from .evaluate import evaluate
from .exit_codes import ExitCode, exit_code_of
from .export_nemo import export_nemo
from .export_onnx import export_onnx
from .finetune import finetune
from .inspect import inspect
from .serve import serve
from .signals import ending_in_order, name_of_ending
from .stream import stream
from .streams import flush_standard_output, prepare_streams
from .transcribe import transcribe

app = typer.Typer(
    epilog="Exit codes: 0 done, 1 some inputs failed, 2 used wrongly, 3 the environment lacks something "
    "(`fastconformer doctor` tells what), 130 interrupted, 143 or 129 ended by SIGTERM or SIGHUP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(transcribe)
app.command()(stream)
app.command()(diarize)
app.command()(serve)
app.command()(convert)
app.command()(inspect)
app.command()(export_nemo)
app.command()(export_onnx)
app.command()(finetune)
app.command()(evaluate)
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
    """
    Run a command; an error that a user can mend becomes one line and an exit code, not a traceback.

    Signals that ask it to end are treated as Ctrl-C is, see [`ending_in_order`].
    """
    transformers_logging.disable_progress_bar()
    prepare_streams()
    try:
        with ending_in_order():
            _run_to_its_end(command)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if not isinstance(error, BrokenPipeError):
            show_error(_of_standard_output(error) or error)
        sys.exit(exit_code_of(error))
    except KeyboardInterrupt:
        _say_how_it_ended(ExitCode.INTERRUPTED)
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit as end:
        _say_how_it_ended(end.code)
        raise


def _run_to_its_end(command: Callable[[], Any]) -> None:
    try:
        command()
    except SystemExit as end:
        if not end.code:
            flush_standard_output()
        raise
    flush_standard_output()


def _of_standard_output(error: Exception) -> Exception | None:
    """For an error of the system that names no file, that of the standard output if it has one."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        try:
            flush_standard_output()
        except OSError as found:
            return found
    return None


def _say_how_it_ended(code: Any) -> None:
    """After a signal or an interrupt, which may have come before what was made could be noted for its removal."""
    if code == ExitCode.INTERRUPTED or name_of_ending(code) is not None:
        close_all()
    if code == ExitCode.INTERRUPTED:
        say("Interrupted.")
    elif (name := name_of_ending(code)) is not None:
        say(f"Ended by {name}.")


def main() -> None:
    """Entry point of the `fastconformer` command."""
    keep_freed_memory()
    run(app)


if __name__ == "__main__":
    main()
