"""Memory that the process of a command keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from transformers_fastconformer.cli import allocator
from transformers_fastconformer.cli.allocator import PARAMETERS, keep_freed_memory

# The module by itself, without the package, which would import torch for nothing.
PROGRAM = f"""
import resource, sys
sys.path.insert(0, {str(Path(allocator.__file__).parent)!r})
from allocator import keep_freed_memory

def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = min(count_faults() for _ in range(3))
is_kept = keep_freed_memory()
count_faults()
print(is_kept, before, min(count_faults() for _ in range(3)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is that of the GNU C library")
def test_large_blocks_are_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PARAMETERS:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    is_kept, before, after = done.stdout.split()
    if is_kept != "True":
        pytest.skip("the C library is not GNU's")
    assert int(before) > 1000
    assert int(after) < 100


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_a_user_sets_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "131072")
    assert not keep_freed_memory()
