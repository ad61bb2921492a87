"""Signals that ask a command to end; whole commands are in `integration/test_kills.py`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from transformers_fastconformer.cli import signals as module
from transformers_fastconformer.cli.exit_codes import ExitCode
from transformers_fastconformer.cli.main import run
from transformers_fastconformer.cli.signals import CODES, ending_in_order, name_of_ending, stopping_in_order

NAMES = [name for name in CODES if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    before = {name: signal.signal(getattr(signal, name), signal.SIG_DFL) for name in NAMES}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_ends_the_block_and_lets_it_clean_up(name: str) -> None:
    number = getattr(signal, name)
    cleaned: list[int] = []

    def work() -> None:
        with ending_in_order():
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)  # a second one does not disturb the cleaning
                cleaned.append(number)

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == CODES[name] == 128 + number
    assert cleaned == [number]
    assert signal.getsignal(number) == signal.SIG_DFL
    assert name_of_ending(ended.value.code) == name


def test_what_is_ignored_stays_ignored() -> None:
    """As `nohup` starts a command."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with ending_in_order():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_other_threads_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.signal, "signal", None)
    seen: list[str] = []

    def work() -> None:
        with ending_in_order():
            seen.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["done"]


def test_codes_of_commands_are_no_signals() -> None:
    assert [name_of_ending(code) for code in (0, 1, 130, None, "text")] == [None] * 5


def test_a_command_says_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    def terminated() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        run(terminated)
    assert ended.value.code == ExitCode.TERMINATED
    assert capsys.readouterr().err == "Ended by SIGTERM.\n"


@pytest.mark.parametrize("name", ["SIGINT", *NAMES])
def test_the_first_signal_is_noted_and_the_block_goes_on(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with stopping_in_order() as stop:
        assert stop.code is None
        os.kill(os.getpid(), number)
        assert stop.code == 128 + number
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_raises_and_a_second_sigterm_does_not() -> None:
    with stopping_in_order() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.code == ExitCode.TERMINATED
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    """As a shell starts a command in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_in_order() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.code is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
