"""Work in a forked process: one of its own that need not import everything again, which takes seconds."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch


def run_in_a_fork(work: Callable[[], Any], variables: Mapping[str, str] | None = None, max_seconds: int = 300) -> Any:
    """
    Call a function in a child of this process, which ends with it.

    Args:
        work: Returns what JSON can hold. It prints to the standard error of the tests.
        variables: Further variables of the environment.
        max_seconds: A child that takes longer is ended.

    Returns:
        What it returned; what it raised is raised as an `AssertionError` with its traceback.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            signal.alarm(max_seconds)
            begin_as_a_program(variables or {})
            answer = {"result": work()}
            code = 0
        except BaseException:
            answer = {"error": traceback.format_exc()}
        try:
            with os.fdopen(writer, "w") as file:
                json.dump(answer, file)
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert text, f"the child ended with {status}"
    answer = json.loads(text)
    assert "error" not in answer, answer["error"]
    return answer["result"]


def begin_as_a_program(variables: Mapping[str, str]) -> None:
    """What a program has that is started: signals as the system gives them, streams of its own, one thread."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(variables)
    tempfile.tempdir = None  # read from the environment again
    sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    torch.set_num_threads(1)  # those of the parent are not here


def fork(work: Callable[[], int | None]) -> int:
    """Number of a child, which ends with what a function returns, 0 for `None`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
