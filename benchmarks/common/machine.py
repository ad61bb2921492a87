"""The machine and the memory of a process, as Linux reports them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

MIB, GIB = 1 << 20, 1 << 30


def name_machine(device: str = "cpu") -> str:
    """The processor or the CUDA device, in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def use_given_threads() -> None:
    """Let torch use the number of threads in `OMP_NUM_THREADS`, even if it would take fewer."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))


def available_bytes() -> int:
    """Memory that is available without swapping."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])


def read_memory(process_id: int, name: str) -> int:
    """A line of `/proc/<id>/status` in bytes, such as `VmRSS` or `VmHWM`; 0 where the process has ended."""
    try:
        text = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")), 0)


def process_seconds() -> float:
    """Seconds since this process began."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # the 22nd field of all, after the boot of the machine
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def resident_bytes() -> int:
    """Memory of this process."""
    return read_memory(os.getpid(), "VmRSS")


def reset_peak() -> tuple[int, Callable[[], int]]:
    """Memory of this process now, and a function that returns the peak from now on."""
    trim_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident_bytes(), lambda: read_memory(os.getpid(), "VmHWM")


def trim_memory() -> None:
    """Return freed memory to the system, so that all resident memory is in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
