"""Results as CSV files: the only place that reads and writes them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a file; without a file the list is empty."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """
    Write all rows anew. Long runs call it after every row, so that results are kept when a run is ended.

    Args:
        path: The file; its folder is made.
        rows: One dictionary for each line. Cells that a row lacks are left empty.
        columns: Columns in order; None: those of the first row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns or rows[0]), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
