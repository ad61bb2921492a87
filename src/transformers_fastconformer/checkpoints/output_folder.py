"""Writing a folder whole or not at all: into a temporary folder next to it, which takes its place at the end."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..temporary_files import TemporaryFolder, kept_aside, remove_leftovers

# Of Linux's `renameat2`: paths count from the current folder, and the two change places.
AT_FDCWD = -100
RENAME_EXCHANGE = 2


def check_output(output_dir: Path, overwrite: bool) -> None:
    """
    Refuse an output folder that is in use. What a killed run was replacing is put back first.

    Raises:
        ValueError: for a file or a link, and for a folder that is not empty unless it may be overwritten.
    """
    remove_leftovers(output_dir.absolute().parent)
    if output_dir.is_symlink() or output_dir.is_file():
        raise ValueError(f"output_dir={str(output_dir)!r} is a file or a link; expected a folder, or nothing.")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not overwrite:
        raise ValueError(
            f"output_dir={str(output_dir)!r} is not empty; expected an empty or new folder, or a request to overwrite."
        )


@contextmanager
def written_as_one(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """
    Give a folder on the file system of `output_dir` to write into.

    When the block ends well, one step puts it in the place of `output_dir`; after an error it is removed. Where the
    system cannot exchange two folders, overwriting takes two steps, and the next run puts the old folder back if this
    one is killed between them.
    """
    output_dir = output_dir.absolute()
    with TemporaryFolder(output_dir.parent) as temporary:
        folder = temporary / "written"
        folder.mkdir()
        try:
            yield folder
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(output_dir)) from error  # a disk that is full names nothing
        check_output(output_dir, overwrite)
        if not (overwrite and output_dir.is_dir()):
            folder.rename(output_dir)
        elif not exchange(folder, output_dir):
            with kept_aside(output_dir, temporary):
                folder.rename(output_dir)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; false where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, TypeError, AttributeError):
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    return rename(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0
