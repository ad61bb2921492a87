"""
Records of a fuzz run, and the rule by which a case is judged.

A case is one damaged or odd input and what is done with it, step by step. It ends in one of three ways:

- `result`: every step returned.
- `error`: a clear error in one step, and nothing worse in the others. It is a `ValueError`, `OSError` or `ImportError`
  (the classes themselves, those that Python derives from `OSError` and `ImportError`, and those of this package; not
  what parsers derive from them, such as `JSONDecodeError`), its message has one of the names that the case knows (the
  file, the member, the key, the option; of checkpoints also any key in the form `key=value`) and no more than
  `MAX_MESSAGE` characters. An error of the system with a number may have the name in `filename`.
- a fault, by kind, see `FAULTS`.
"""

from __future__ import annotations

import builtins
import errno
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "transformers_fastconformer"
MAX_MESSAGE = 4000
RESULT, ERROR = "result", "error"
FAULTS = {
    "raw": "an exception of another class",
    "unnamed": "an error that does not name the input, or a message without an end",
    "hang": "no end within the time",
    "signal": "the process was ended by a signal",
    "memory": "more memory than the limit, or far more than the input needs",
    "disk": "a file beyond the limit of the size",
    "silent": "a result that is not that of the whole input, where a checksum or a length tells",
    "leftover": "files left in the output, the cache or the temporary folder, or a changed input",
    "outside": "something written outside, or code of the input run",
    "chatter": "text on the standard output or error that is no log message",
}
MEMORY_WORDS = ("bad_alloc", "can't allocate memory", "not enough memory", "Cannot allocate memory", "MemoryError")
KEY_AND_VALUE = re.compile(r"\b[a-z_][\w.]*=")
BUILTIN_ERRORS = tuple(
    value for value in vars(builtins).values() if isinstance(value, type) and issubclass(value, OSError | ImportError)
)


class SilentChangeError(Exception):
    """A result that is not that of the whole input. Checks of cases raise it."""


class OutsideError(Exception):
    """Code of the input ran. Checks of cases raise it."""


class LeftoverError(Exception):
    """Files of something that failed. Checks of cases raise it."""


CHECKS = {SilentChangeError: "silent", OutsideError: "outside", LeftoverError: "leftover"}


@dataclass(frozen=True)
class Room:
    """
    Folders of one case.

    Args:
        root: Folder that holds the others, empty at the start.
    """

    root: Path

    @property
    def input(self) -> Path:
        """What the case reads; it must not change."""
        return self.root / "input"

    @property
    def output(self) -> Path:
        """What the case writes, if it succeeds."""
        return self.root / "output"

    @property
    def cache(self) -> Path:
        """The cache of conversions."""
        return self.root / "cache"

    @property
    def temporary(self) -> Path:
        """`TMPDIR`; empty at the end."""
        return self.root / "temporary"

    @property
    def outside(self) -> Path:
        """The working folder, and what hostile inputs aim at; empty at the end."""
        return self.root / "outside"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.input, self.output, self.cache, self.temporary, self.outside)


@dataclass(frozen=True)
class Case:
    """
    One input and what is done with it.

    Args:
        kind: Kind of the input: `"archive"`, `"folder"`, ...
        seed: Number from which everything about the case follows.
        mutation: Name of what was done to the input.
        base: Name of the whole input.
        steps: Functions that use the package, in order. An error of one does not keep the next from being tried.
        names: Names of which every error must have one.
        is_keyed: Instead of a name an error may have a key and its value, `key=value`.
        is_loud: The steps are commands, whose messages are no chatter.
    """

    kind: str
    seed: int
    mutation: str
    base: str
    steps: Sequence[Callable[[], Any]]
    names: Sequence[str]
    is_keyed: bool = False
    is_loud: bool = False

    @property
    def label(self) -> str:
        """The case as the command line takes it."""
        return f"{self.kind}:{self.seed}"


@dataclass
class Outcome:
    """
    The end of a case.

    Args:
        kind, seed, mutation, base: Of the case.
        verdict: `"result"`, `"error"` or a name of `FAULTS`.
        message: The last line of the error or a sentence about the fault.
        trace: The traceback, if there is one.
        seconds: Time of the steps.
        megabytes: Memory that the steps took beyond that of the process before.
        digest: Digest of the input.
    """

    kind: str
    seed: int
    mutation: str = ""
    base: str = ""
    verdict: str = RESULT
    message: str = ""
    trace: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    digest: str = ""

    @property
    def is_fault(self) -> bool:
        """True where something must be mended."""
        return self.verdict in FAULTS


def rng_of(kind: str, seed: int) -> random.Random:
    """The random numbers of a case; the same in every process and version of Python."""
    return random.Random(f"{kind}:{seed}")


def judge_error(error: BaseException, names: Sequence[str], is_keyed: bool = False) -> tuple[str, str]:
    """
    Judge an exception by the rule of this module.

    Returns:
        The verdict, and the exception in one line.
    """
    text = str(error)
    line = f"{type(error).__name__}: {' '.join(text.split())[:400]}"
    if type(error) in CHECKS:
        return CHECKS[type(error)], line
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(word in text for word in MEMORY_WORDS):
        return "memory", line
    if number == errno.EFBIG:
        return "disk", line
    is_clear = type(error) in (ValueError, *BUILTIN_ERRORS) or (
        isinstance(error, ValueError | OSError | ImportError) and type(error).__module__.startswith(PACKAGE)
    )
    if not is_clear:
        return "raw", line
    if len(text) > MAX_MESSAGE:
        return "unnamed", f"{len(text)} characters: {line}"
    searched = text if number is None else f"{text} {getattr(error, 'filename', '')}"
    is_named = any(name in searched for name in names) or (is_keyed and KEY_AND_VALUE.search(text) is not None)
    if not is_named:
        return "unnamed", line
    return ERROR, line
