"""Writing a folder whole or not at all: into a temporary folder next to it, which is renamed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output(output_dir: Path, overwrite: bool) -> None:
    """
    Refuse an output folder that is in use.

    Raises:
        ValueError: for a file or a link, and for a folder that is not empty unless it may be overwritten.
    """
    if output_dir.is_symlink() or output_dir.is_file():
        raise ValueError(f"output_dir={str(output_dir)!r} is a file or a link; expected a folder, or nothing.")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not overwrite:
        raise ValueError(
            f"output_dir={str(output_dir)!r} is not empty; expected an empty or new folder, or a request to overwrite."
        )


@contextmanager
def written_as_one(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """
    Give a folder next to `output_dir` to write into.

    When the block ends well, one rename puts it in the place of `output_dir`; after an error it is removed.
    """
    output_dir = output_dir.absolute()
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.converting-", dir=output_dir.parent))
    replaced = folder.with_name(f"{folder.name}.replaced")
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        check_output(output_dir, overwrite)
        if overwrite and output_dir.is_dir():
            output_dir.rename(replaced)
        folder.rename(output_dir)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if replaced.exists():
            replaced.rename(output_dir)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
