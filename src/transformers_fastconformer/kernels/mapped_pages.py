"""
Pages of mapped files that a process has read and needs no more.

Weights are mapped from their file. What is read once, to make another form of it, stays counted as the process's
memory as long as anything else of the file is in use, unless it is given back. The values stay: if they are wanted
again, they are read from the file.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import torch

SMAPS = Path("/proc/self/smaps")
# Addresses, rights, offset, device, inode: the first line of an entry.
ENTRY = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) [0-9a-f]+ \S+ (\d+)")
UNCHANGED = re.compile(r"Anonymous:\s+0 kB")


class MappedPages:
    """
    The mapped files of this process that nobody has written to, as they are when this is made.

    Linux tells which they are; on other systems nothing is given back.
    """

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        try:
            lines = SMAPS.read_text(encoding="utf-8", errors="replace").splitlines()
            self._advise = ctypes.CDLL(None).madvise
        except (OSError, TypeError, AttributeError):
            return
        self._advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        current: tuple[int, int] | None = None
        for line in lines:
            entry = ENTRY.match(line)
            if entry is not None:
                is_file = entry[4] != "0"
                current = (int(entry[1], 16), int(entry[2], 16)) if is_file else None
            elif current is not None and UNCHANGED.match(line):
                self._ranges.append(current)

    def give_back(self, tensor: torch.Tensor) -> None:
        """Let the pages that hold nothing but this tensor leave memory, if it is part of such a file."""
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        stop = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // page * page
        if start < stop and any(first <= start and stop <= last for first, last in self._ranges):
            # A failure, as of pages that are locked, leaves them where they are.
            self._advise(start, stop - start, mmap.MADV_DONTNEED)
