"""Files that are whole or not there, on a disk that is full, and on several disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer.cli.whole_files import WholeFiles


def test_a_disk_of_its_own_below_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, refused = os.replace, []

    def refuse_once(written: Any, path: Any) -> None:
        if not refused:
            refused.append(path)
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(written, path)

    monkeypatch.setattr(os, "replace", refuse_once)
    files = WholeFiles(tmp_path)
    files.write({tmp_path / "a": "text"})
    files.close()
    assert (tmp_path / "a").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from transformers_fastconformer.cli.whole_files import OutputError, WholeFiles
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
files = WholeFiles(Path(sys.argv[1]))
files.write({Path(sys.argv[1], "small"): "x" * 100})
try:
    files.write({Path(sys.argv[1], "first"): "x", Path(sys.argv[1], "large"): "x" * 10000})
except OutputError as error:
    print(error)
files.close()
"""


@pytest.mark.slow
def test_a_file_that_does_not_fit_is_not_there(tmp_path: Path) -> None:
    """A limit of the system, in a process of its own, which imports the command: `slow`."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{tmp_path / 'large'} cannot be written: File too large\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_folder_that_was_taken_for_a_leftover_is_made_anew(tmp_path: Path) -> None:
    """As happens to a run that was stopped for longer than the others wait."""
    files = WholeFiles(tmp_path)
    files.write({tmp_path / "a": "a"})
    (temporary,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for child in temporary.iterdir():
        child.unlink()
    temporary.rmdir()
    files.write({tmp_path / "b": "b"})
    files.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
