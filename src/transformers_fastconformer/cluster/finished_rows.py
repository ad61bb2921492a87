"""Finished rows in a folder: a Parquet file for each batch, from which a later run takes what is done."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .packages import import_arrow
from .tables import COLUMNS, to_table

KEY_COLUMN, NAME_COLUMN = "clip_key", "audio"
DIGEST_BYTES = 16


class FinishedRows:
    """
    Rows that were finished by this run or an earlier one. Rows with an error are kept too, and done again.

    Several processes may write to one folder: a file takes its place whole, and one batch has one file.

    Args:
        folder: The folder, which is made when something is written; all machines must reach it.

    Raises:
        ValueError: for a file in it that cannot be read; the message names it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted(self._folder.glob("*.parquet")):
            self._note(path)

    def _note(self, path: Path) -> None:
        table = self._read(path, [KEY_COLUMN, "error"])
        for number, (key, error) in enumerate(zip(*table.to_pydict().values(), strict=True)):
            if error is None:
                self._places[key] = path, number

    @staticmethod
    def _read(path: Path, columns: Sequence[str]) -> Any:
        arrow = import_arrow()
        try:
            return arrow.parquet.read_table(path, columns=list(columns), use_threads=False)
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(
                f"{str(path)!r} cannot be read; expected rows that TranscribeBatches has written. Without the file "
                f"they are done again. {error}"
            ) from error

    def __len__(self) -> int:
        return len(self._places)

    def take(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Finished rows among those with these keys."""
        path = self._path_of(keys)
        # Of a batch that a worker has written before it was lost, after this one has looked.
        if path.exists() and not all(key in self._places for key in keys):
            self._note(path)
        wanted: dict[Path, list[tuple[str, int]]] = {}
        for key in dict.fromkeys(keys):
            if key in self._places:
                found, number = self._places[key]
                wanted.setdefault(found, []).append((key, number))
        rows: dict[str, dict[str, Any]] = {}
        for found, items in wanted.items():
            table = self._read(found, list(COLUMNS)).take([number for _, number in items])
            rows |= dict(zip((key for key, _ in items), table.to_pylist(), strict=True))
        return rows

    def add(self, keys: Sequence[str], names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """
        Write the rows of a batch.

        Raises:
            OSError: when they cannot be written.
        """
        arrow = import_arrow()
        path = self._path_of(keys)
        self._folder.mkdir(parents=True, exist_ok=True)
        table = to_table(rows, {KEY_COLUMN: arrow.array(keys, arrow.string()), NAME_COLUMN: list(names)})
        handle, unfinished = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                arrow.parquet.write_table(table, file)
            os.replace(unfinished, path)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        self._note(path)

    def _path_of(self, keys: Sequence[str]) -> Path:
        digest = hashlib.blake2b("".join(keys).encode(), digest_size=DIGEST_BYTES)
        return self._folder / f"{digest.hexdigest()}.parquet"
