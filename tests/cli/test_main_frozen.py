"""
The command line is frozen: scripts of users rest on it.

Each command, option, type, default and choice is in `tests/fixtures/command_line.json`. Users meet a change there, so
it has a line in the CHANGELOG; the file is written anew by

    python tests/cli/test_main_frozen.py
"""

from __future__ import annotations

import inspect
import json
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from transformers_fastconformer.cli.main import app

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "command_line.json"
COMMAND = "python tests/cli/test_main_frozen.py"


def describe_command(command: Any) -> dict[str, Any]:
    """What a user can type after a command, and its subcommands."""
    hints: dict[str, Any] = {}
    if command.callback is not None:
        hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    parameters = {parameter.name: describe_parameter(parameter, hints[parameter.name]) for parameter in command.params}
    described: dict[str, Any] = {"parameters": parameters} if parameters else {}
    subcommands = getattr(command, "commands", {})
    if subcommands:
        described["commands"] = {name: describe_command(subcommands[name]) for name in sorted(subcommands)}
    return described


def describe_parameter(parameter: Any, hint: Any) -> dict[str, Any]:
    """Names, type, default, choices and limits of an option or argument."""
    is_argument = parameter.param_type_name == "argument"
    kind = type_of(hint)
    described: dict[str, Any] = {
        "names": [] if is_argument else [*parameter.opts, *parameter.secondary_opts],
        "type": "flag" if getattr(parameter, "is_flag", False) else kind.__name__,
        "default": plain(parameter.default),
    }
    if parameter.required:
        described["required"] = True
    if getattr(parameter, "multiple", False) or parameter.nargs != 1:
        described["several"] = True
    if issubclass(kind, Enum):
        described |= {"type": "choice", "choices": [choice.value for choice in kind]}
    for information in information_of(hint):
        limits = {"min": information.min, "max": information.max}
        described |= {name: limit for name, limit in limits.items() if limit is not None}
    return described


def type_of(hint: Any) -> type:
    """The class of one value: `Annotated[list[Path] | None, ...]` is a `Path`."""
    if hasattr(hint, "__metadata__"):
        return type_of(hint.__origin__)
    inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    return type_of(inner[0]) if inner else hint


def information_of(hint: Any) -> tuple[Any, ...]:
    """What Typer is told in an annotation; Python 3.10 puts `Optional` around one whose default is None."""
    found: tuple[Any, ...] = getattr(hint, "__metadata__", ())
    return found or tuple(item for argument in typing.get_args(hint) for item in information_of(argument))


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, str | int | float | bool) else None


def describe_command_line() -> str:
    """The whole command line as the fixture has it."""
    return json.dumps(describe_command(typer.main.get_command(app)), indent=1, ensure_ascii=False) + "\n"


def test_the_command_line_is_as_it_was() -> None:
    found, expected = json.loads(describe_command_line()), json.loads(FIXTURE.read_text(encoding="utf-8"))
    assert found == expected, (
        "the command line has changed, which users meet: if that is meant, write a line in CHANGELOG.md and run "
        f"`{COMMAND}`"
    )


def test_a_change_is_seen() -> None:
    expected = json.loads(FIXTURE.read_text(encoding="utf-8"))
    for name in ("transcribe", "convert", "inspect"):  # the checkpoint is --model in all of them
        assert expected["commands"][name]["parameters"]["model"]["names"] == ["--model"]
    changed = typer.Typer(add_completion=False)

    @changed.command()
    def transcribe(model: str = "demo") -> None:
        """Another command."""

    found = describe_command(typer.main.get_command(changed))
    assert found["parameters"]["model"] == {"names": ["--model"], "type": "str", "default": "demo"}
    assert found != expected["commands"]["transcribe"]


if __name__ == "__main__":
    FIXTURE.write_text(describe_command_line(), encoding="utf-8")
