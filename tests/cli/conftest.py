"""Runs the `fastconformer` command in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from transformers_fastconformer.cli.main import main


@dataclass
class Finished:
    """What a command printed and returned."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Runs the entry point with arguments, in this process: importing torch once is enough."""

    def run(*arguments: str, folder: Path | None = None) -> Finished:
        monkeypatch.setattr(sys, "argv", ["fastconformer", *arguments])
        monkeypatch.setenv("COLUMNS", "120")
        if folder is not None:
            monkeypatch.chdir(folder)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capsys.readouterr()
        return Finished(code, printed.out, printed.err)

    return run


@pytest.fixture(autouse=True)
def can_be_interrupted() -> Iterator[None]:
    """Processes in the background of a shell are started with SIGINT ignored, and so are their tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
