"""
Memory of the command's own process that is kept when it is freed.

The C library gives large blocks back to the system at once and fetches them again, page by page, for the next layer:
on long audio that takes as much time as half of the encoder. A process of its own may keep them; a library may not
decide that for the application it is in, so only commands call this.
"""

from __future__ import annotations

import ctypes
import os

# Parameters of `mallopt` in the GNU C library, and the variables by which a user sets them.
PARAMETERS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}
MAX_THRESHOLD = 2**31 - 1


def keep_freed_memory() -> bool:
    """
    Let this process keep the memory that it frees, up to 2 GiB at a time; true where the C library can be told so.

    What the user has set by environment variables stays as it is.
    """
    try:
        library = ctypes.CDLL(None)
        is_gnu = hasattr(library, "gnu_get_libc_version")
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):  # Windows, macOS
        return False
    if not is_gnu or any(name in os.environ for name in (*PARAMETERS, "GLIBC_TUNABLES")):
        return False
    return all(mallopt(parameter, MAX_THRESHOLD) == 1 for parameter in PARAMETERS.values())
