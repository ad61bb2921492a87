"""
Silence for mpg123, which libsndfile uses for MP3: it writes about damaged frames on the terminal, and libsndfile does
not tell it not to.

It writes through the variable `stderr` of the C library, which points elsewhere meanwhile. The file descriptor stays
as it is, so that whatever Python writes at the same time, in other threads too, arrives.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Names of the variable in the C libraries of Linux and macOS; that of Windows has none.
STDERR_NAMES = ("stderr", "__stderrp")

_lock = threading.Lock()
_num_inside = 0
_variable: Any = None
_terminal: Any = None
_nowhere: Any = None


def _find() -> None:
    """Look the variable up, once."""
    global _variable, _nowhere
    library = ctypes.CDLL(None)
    for name in STDERR_NAMES:
        try:
            _variable = ctypes.c_void_p.in_dll(library, name)
        except ValueError:
            continue
        library.fopen.restype = ctypes.c_void_p
        library.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        _nowhere = library.fopen(os.devnull.encode(), b"w")
        return


@contextmanager
def c_library_is_quiet() -> Iterator[None]:
    """Drop what libraries write through C's `stderr`; several threads may be inside."""
    global _num_inside, _terminal
    if os.name == "nt":
        yield
        return
    with _lock:
        if _variable is None:
            _find()
        if _num_inside == 0 and _nowhere:
            _terminal, _variable.value = _variable.value, _nowhere
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0 and _nowhere:
                _variable.value = _terminal
