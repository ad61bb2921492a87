"""Processes of their own, so that one measurement does not take time or memory from another."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from common.folders import BENCHMARKS
from common.machine import GIB, read_memory

POLL_SECONDS = 0.05


def module_command(module: str) -> list[str]:
    """The command that runs a module of this folder, such as `common.nemo_shapes`, from any working folder."""
    code = f"""
import runpy, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    return [sys.executable, "-c", code]


def run_limited(command: list[str], max_bytes: int, max_seconds: float) -> dict[str, Any]:
    """
    Run a command and read the last line that it prints, which is JSON; after a failure the result has an `error`.

    Args:
        command: Program and arguments.
        max_bytes: Memory above which it is ended.
        max_seconds: Time after which it is ended.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=output, stderr=log)
        start = time.monotonic()
        reason = ""
        try:
            while process.poll() is None and not reason:
                time.sleep(POLL_SECONDS)
                if read_memory(process.pid, "VmRSS") > max_bytes:
                    reason = f"more than {max_bytes / GIB:g} GiB of memory"
                elif time.monotonic() - start > max_seconds:
                    reason = f"more than {max_seconds:g} s"
        finally:
            process.kill()
            process.wait()
        if reason:
            return {"error": reason}
        output.seek(0)
        lines = output.read().splitlines()
        if not lines:
            return {"error": f"ended with code {process.returncode}"}
        return json.loads(lines[-1])
