"""Silence for the C library's `stderr` and `stdout`, and for nothing else."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import pytest

from transformers_fastconformer.audio.quiet import c_library_is_quiet


@pytest.mark.skipif(sys.platform == "win32", reason="the C library of Windows has no such variable")
def test_only_c_libraries_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    perror = ctypes.CDLL(None).perror
    perror(b"before")
    with c_library_is_quiet():
        perror(b"within")
        with c_library_is_quiet():
            perror(b"twice")
        perror(b"within")
        thread = threading.Thread(target=os.write, args=(2, b"another thread\n"))
        thread.start()
        thread.join()
    perror(b"after")
    with pytest.raises(ValueError, match="x"), c_library_is_quiet():
        raise ValueError("x")
    perror(b"after an error")
    lines = [line.split(":")[0] for line in capfd.readouterr().err.splitlines()]
    assert lines == ["before", "another thread", "after", "after an error"]


@pytest.mark.skipif(sys.platform == "win32", reason="the C library of Windows has no such variable")
def test_the_standard_output_is_quiet_too(capfd: pytest.CaptureFixture[str]) -> None:
    library = ctypes.CDLL(None)
    library.puts(b"before")
    with c_library_is_quiet():
        library.puts(b"within")
    library.puts(b"after")
    library.fflush(None)
    assert capfd.readouterr().out.splitlines() == ["before", "after"]
