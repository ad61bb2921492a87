"""A manifest that grows line by line, next to its place and locked by one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..temporary_files import lock_file
from .transcribe_inputs import UNFINISHED_SUFFIX
from .whole_files import OutputError


@dataclass
class UnfinishedManifest:
    """
    A manifest that is being written.

    Args:
        path: Path of the finished manifest.
        indices: Numbers of the inputs that are its lines.
        lines: Lines that are known so far.
        file: The unfinished file, locked by this run.
    """

    path: Path
    indices: list[int] = field(default_factory=list)
    lines: dict[int, str] = field(default_factory=dict)
    file: BinaryIO | None = None

    @property
    def unfinished_path(self) -> Path:
        return self.path.with_name(self.path.name + UNFINISHED_SUFFIX)

    def open(self) -> BinaryIO:
        """
        Open the unfinished file and lock it until `close`.

        Raises:
            OSError: when another run is writing the same manifest, or the file cannot be written.
        """
        while self.file is None:
            file = self.unfinished_path.open("a+b")
            if lock_file(file.fileno()) is False:
                file.close()
                raise OutputError(
                    f"{self.path} is being written by another run; expected it to end first, or another --output_dir."
                )
            if self.unfinished_path.exists():  # else the other run has just finished it
                self.file = file
            else:
                file.close()
        return self.file

    def remove_unfinished(self) -> None:
        """Remove the unfinished file, under its lock where the system lets open files be removed."""
        try:
            self.unfinished_path.unlink(missing_ok=True)
        except PermissionError:
            self.close()
            self.unfinished_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lock back."""
        if self.file is not None:
            self.file.close()
            self.file = None
