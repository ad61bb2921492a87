"""
Exit codes, the same in all commands, and the errors that lead to them.

| Code | Meaning |
|---|---|
| 0 | done |
| 1 | some inputs failed, each named at the end; the others are done |
| 2 | the command was used wrongly; nothing was done |
| 3 | the environment lacks something; the message says what to do |
| 130 | interrupted by Ctrl-C; what was finished is whole, and the same command goes on where it ended |
| 143 | ended by SIGTERM, as schedulers and containers do; as 130 |
| 129 | ended by SIGHUP, when its terminal is closed; as 130 |

Code 1: an audio file that is missing or damaged, a folder or manifest without audio; for `convert` and `inspect`,
whose input is the checkpoint, one that cannot be converted; a verification whose numbers differ; a full disk; memory
that does not suffice; a standard output that is closed.

Code 2: an unknown option, format or device, options that exclude one another, a model that does not exist or that
`transcribe` cannot load, an output folder that is in use.

Code 3: an extra that is not installed, a microphone that this machine does not have, a model that is not on this
machine and cannot be downloaded, because the network or the right to it is missing.

A missing file is code 1 if it is an input, since the other inputs are still done, and code 2 if an option names it,
since then nothing is done. Errors without a row are faults of this package and end in a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from ..audio.microphone import NoMicrophoneError
from ..checkpoints.network import causes_of, is_unreachable


class ExitCode(IntEnum):
    """Exit code of a command."""

    DONE = 0
    INPUTS_FAILED = 1
    USED_WRONGLY = 2
    ENVIRONMENT_LACKS = 3
    INTERRUPTED = 130
    HUNG_UP = 129
    TERMINATED = 143


class InputError(ValueError):
    """An error of an input, not of the use of the command."""


@contextmanager
def failing_as_input() -> Iterator[None]:
    """Turn the errors of a block into errors of the input."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


def exit_code_of(error: Exception) -> ExitCode:
    """
    The code for an error that ends a command.

    Args:
        error: A `ValueError`, `OSError`, `ImportError` or `MemoryError`.
    """
    if isinstance(error, InputError | MemoryError):
        return ExitCode.INPUTS_FAILED
    if isinstance(error, ImportError | NoMicrophoneError) or is_unreachable(error):
        return ExitCode.ENVIRONMENT_LACKS
    if isinstance(error, ValueError | FileNotFoundError):
        return ExitCode.USED_WRONGLY
    # Errors of the system have a number, such as that of a full disk; those of Transformers, which say that a name
    # holds no checkpoint, have none.
    has_number = any(isinstance(cause, OSError) and cause.errno is not None for cause in causes_of(error))
    return ExitCode.INPUTS_FAILED if has_number else ExitCode.USED_WRONGLY
