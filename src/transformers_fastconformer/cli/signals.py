"""Signals that ask a command to end: it cleans up as after Ctrl-C and ends with the code that shells know."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .exit_codes import ExitCode

# Of schedulers, containers and `kill`; and of a terminal that is closed, which Windows does not have.
CODES = {"SIGTERM": ExitCode.TERMINATED, "SIGHUP": ExitCode.HUNG_UP}


@contextmanager
def ending_in_order() -> Iterator[None]:
    """
    Let signals that would kill the process raise `SystemExit` in the block, with the code of the signal.

    A signal that is ignored, as `nohup` does, stays ignored. The same signals are ignored while the block cleans up:
    they often come twice, to the process and to its group.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before: dict[int, Any] = {}

    def end(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(CODES[signal.Signals(number).name])

    try:
        for name in CODES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """A request to end; `code` is that of the signal that made it, None before a signal."""

    code: ExitCode | None = None


@contextmanager
def stopping_in_order() -> Iterator[Stop]:
    """
    Let the first signal that asks a command to end be noted in place of raising: the block finishes its work.

    A second Ctrl-C raises as it does elsewhere. Signals that are ignored stay ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return
    before: dict[int, Any] = {}
    codes = {"SIGINT": ExitCode.INTERRUPTED, **CODES}

    def note(number: int, frame: FrameType | None) -> None:
        stop.code = codes[signal.Signals(number).name]
        for other, handler in before.items():
            # The others often come twice, to the process and to its group.
            signal.signal(other, handler if other == signal.SIGINT else signal.SIG_IGN)

    try:
        for name in codes:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def name_of_ending(code: Any) -> str | None:
    """The signal that ended a block of `ending_in_order`, by the code; None for other codes."""
    return {int(known): name for name, known in CODES.items()}.get(code)
