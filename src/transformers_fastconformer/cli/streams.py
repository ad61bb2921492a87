"""The standard streams of a command: characters that they cannot take, and streams that are closed or full."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import unicodedata
from contextlib import suppress

# Name of an error handler of Python's codecs.
ESCAPE = "transformers_fastconformer.escape"
# Characters that are not seen: controls, formats (such as a change of direction), and breaks of lines and paragraphs.
CONTROL_CATEGORIES = ("Cc", "Cf", "Zl", "Zp")


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _as_json_escapes(error.object[error.start : error.end]), error.end


def _as_json_escapes(text: str) -> str:
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


# Written as JSON escapes, so that JSON stays JSON in any encoding. A byte of a file name that is not UTF-8 is one half
# of a surrogate pair in Python; read back from JSON it names the same file.
codecs.register_error(ESCAPE, _escape)


def escape_controls(text: str) -> str:
    """Text of one line in which nothing moves the cursor, changes the terminal or the direction of writing."""
    return "".join(
        _as_json_escapes(character) if unicodedata.category(character) in CONTROL_CATEGORIES else character
        for character in text
    )


class ClosedOutput(io.TextIOBase):
    """A standard output that was closed before the command began (`>&-`)."""

    def write(self, text: str) -> int:
        raise closed_output_error()


def closed_output_error() -> OSError:
    """The error of a standard output that is closed, caused by one of the system."""
    error = OSError("the standard output is closed; expected one to write to.")
    error.__cause__ = OSError(errno.EBADF, os.strerror(errno.EBADF))
    return error


def prepare_streams() -> None:
    """
    Let the standard streams take every character, and closed ones be safe to write to.

    What is written to a closed standard error is lost; to a closed standard output it is an `OSError`.
    """
    for descriptor in (0, 1, 2):
        # Else the next file that is opened would get the number, and what libraries print would be written into it.
        with suppress(OSError):
            try:
                os.fstat(descriptor)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (open as long as the process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPE)


def write_standard_output(text: str) -> None:
    """
    Write text to the standard output and flush it.

    Raises:
        OSError: when it is closed, or leads to a file and the disk is full.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        silence_standard_output()
        if isinstance(error, BrokenPipeError):  # the reader has read enough
            raise
        raise OSError(f"the standard output cannot be written: {error.strerror or error}") from error


def flush_standard_output() -> None:
    """
    Write what still waits, where an error can still be told.

    Raises:
        OSError: as `write_standard_output`.
    """
    if not isinstance(sys.stdout, ClosedOutput) and not sys.stdout.closed:
        write_standard_output("")


def silence_standard_output() -> None:
    """After an error: the interpreter would write the buffer again when it ends, and print a message of its own."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
