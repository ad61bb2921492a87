"""Memory that is free on a device, as the system, a container's limit, or the device tells it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# Taken as free memory where the system does not say how much is free.
UNKNOWN_MEMORY_BYTES = 4 * 2**30

MEMORY_INFO = Path("/proc/meminfo")
# Limits of a container: version 2 of control groups, then version 1. The memory in use, and the limit.
CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.max")),
    (
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ),
)


def available_bytes(device: torch.device) -> int:
    """Free memory of a device; for a CPU it is what the system and a container's limit leave."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that the allocator keeps for reuse is free for us.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    found = [value for value in (_free_of_system(), *map(_free_of_group, CONTROL_GROUPS)) if value is not None]
    return min(found, default=UNKNOWN_MEMORY_BYTES)


def _free_of_system() -> int | None:
    try:
        for line in MEMORY_INFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:  # outside Linux only the total memory is known at best, not the free memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _free_of_group(files: tuple[Path, Path]) -> int | None:
    try:
        used, most = (path.read_text(encoding="ascii").strip() for path in files)
        return max(int(most) - int(used), 0)
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None
