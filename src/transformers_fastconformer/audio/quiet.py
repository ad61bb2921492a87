"""
Silence for libsndfile and mpg123, which it uses for MP3: they write about damaged data on the terminal and cannot be
told not to.

They write through the variables `stderr` and `stdout` of the C library, which point elsewhere meanwhile. The file
descriptors stay as they are, so that whatever Python writes at the same time, in other threads too, arrives.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Names of the variables in the C libraries of Linux and macOS; that of Windows has none.
STREAM_NAMES = (("stderr", "__stderrp"), ("stdout", "__stdoutp"))

_lock = threading.Lock()
_num_inside = 0
# The variables, None before they are looked up; where they point to, and the null device.
_variables: list[Any] | None = None
_streams: list[Any] = []
_nowhere: Any = None


def _find() -> list[Any]:
    """Look the variables up, once."""
    global _nowhere
    library = ctypes.CDLL(None)
    found = []
    for names in STREAM_NAMES:
        for name in names:
            try:
                found.append(ctypes.c_void_p.in_dll(library, name))
            except ValueError:
                continue
            break
    library.fopen.restype = ctypes.c_void_p
    library.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    _nowhere = library.fopen(os.devnull.encode(), b"w")
    return found if _nowhere else []


@contextmanager
def c_library_is_quiet() -> Iterator[None]:
    """Drop what libraries write through C's `stderr` and `stdout`; several threads may be inside."""
    global _num_inside, _variables, _streams
    if os.name == "nt":
        yield
        return
    with _lock:
        if _variables is None:
            _variables = _find()
        if _num_inside == 0:
            _streams = [variable.value for variable in _variables]
            for variable in _variables:
                variable.value = _nowhere
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0:
                for variable, stream in zip(_variables, _streams, strict=True):
                    variable.value = stream
