"""Files that exist whole or not at all, and the errors of writing them."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ..temporary_files import TemporaryFolder, write_whole
from .streams import ESCAPE

# Errors of the place that concern all inputs, not one: a disk that is full or fails, and files that nobody may open.
ERRORS_OF_THE_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)


class OutputError(OSError):
    """An error of the place that is written to, which concerns all inputs and ends the run."""


def encode(text: str) -> bytes:
    """Text as it is written to files: UTF-8, with escapes for the bytes of file names that are not UTF-8."""
    return text.encode("utf-8", ESCAPE)


def cannot_write(name: str, error: OSError) -> OSError:
    """The error of a file by its name; an `OutputError` where it concerns all inputs."""
    kind = OutputError if error.errno in ERRORS_OF_THE_RUN else OSError
    return kind(f"{name} cannot be written: {error.strerror or error}")


class WholeFiles:
    """
    Files in and below a folder that exist whole or not at all, whatever else writes there.

    They are written to a temporary folder of this run first, which is made with the first of them.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temporary: TemporaryFolder | None = None

    def write(self, contents: Mapping[Path, str], announce: Callable[[], None] = lambda: None) -> None:
        """
        Write several files, none of which takes its place before all are written.

        Args:
            contents: Text of each file.
            announce: Called when all are written and none is in its place yet.

        Raises:
            OutputError: when the folder cannot be written to; the message names a file.
            OSError: when a file cannot take its place.
        """
        temporary: dict[Path, Path] = {}
        path = self._folder
        try:
            try:
                for path, text in contents.items():
                    temporary[path] = self._write_aside(encode(text))
            except OSError as error:
                raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
            announce()
            try:
                for path, written in temporary.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._put(written, path)
            except OSError as error:
                raise cannot_write(str(path), error) from error
        finally:
            for written in temporary.values():
                with suppress(OSError):
                    written.unlink(missing_ok=True)

    def _write_aside(self, content: bytes) -> Path:
        # The folder of a run that was stopped for long may have been taken for a leftover.
        if self._temporary is None or not self._temporary.path.is_dir():
            self._temporary = TemporaryFolder(self._folder)
        path = self._temporary.path / secrets.token_hex(8)
        path.write_bytes(content)
        return path

    @staticmethod
    def _put(written: Path, path: Path) -> None:
        try:
            os.replace(written, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            write_whole(path, written.read_bytes())  # a folder below the output folder is a disk of its own

    def close(self) -> None:
        """Remove the temporary folder."""
        if self._temporary is not None:
            self._temporary.close()
            self._temporary = None
