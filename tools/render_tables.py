"""
Write the tables of the pages from the results of the benchmarks, or check that they agree with the results.

    python tools/render_tables.py
    python tools/render_tables.py --check

A table stands in a page between two comments. The first has the result files (below `benchmarks/`; several with
commas) and a query for the table, as SQL over one table `rows`:

    <!-- table: results/wer_digits_float32_cpu.csv
    SELECT head, fixed(wer_percent, 1) || ' %' AS "word error rate" FROM rows WHERE digits = '1-8' -->

    <!-- end -->

`rows` has the columns of the files and `source`, the name of the file without `.csv`; numbers are numbers, empty cells
are NULL, and `fixed(value, digits)` rounds. The names of the selected columns are the head of the table. With `text:`
in place of `table:` the selected cells are written as they are, a line for each row.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import re
import sqlite3
import sys
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(
    r"(?P<start><!-- (?P<kind>table|text): (?P<files>results/\S+\.csv(?:,\s+results/\S+\.csv)*)\s+(?P<query>.*?) -->)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)
START = re.compile(r"<!-- (?:table|text):")
INTEGER, REAL = re.compile(r"-?\d+"), re.compile(r"-?\d+(\.\d+)?")


def list_pages(root: Path) -> list[Path]:
    """List the pages in which tables may stand."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def type_of(values: Sequence[str]) -> str:
    """The SQL type that holds all values of a column; values with an exponent stay text, as they are written."""
    for name, pattern in (("INTEGER", INTEGER), ("REAL", REAL)):
        if all(pattern.fullmatch(value) for value in values if value):
            return name
    return "TEXT"


def load_rows(paths: Sequence[Path]) -> sqlite3.Connection:
    """Load the rows of all files, in order, into the table `rows` of a database in memory."""
    rows: list[dict[str, str]] = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            rows += [{"source": path.stem, **row} for row in csv.DictReader(file)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    types = {column: type_of([row.get(column, "") for row in rows]) for column in columns}
    database = sqlite3.connect(":memory:")
    declared = ", ".join(f'"{column}" {types[column]}' for column in columns)
    database.create_function("fixed", 2, format_number)
    database.execute(f"CREATE TABLE rows ({declared})")
    values = [[row.get(column) or None for column in columns] for row in rows]
    database.executemany(f"INSERT INTO rows VALUES ({', '.join('?' for _ in columns)})", values)
    return database


def format_number(value: float | None, digits: int) -> str | None:
    """Format a number with `digits` digits after the point, for `fixed` in queries; None stays None."""
    if value is None:
        return None
    return str(Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def format_cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|")


def render(match: re.Match[str], results_parent: Path) -> str:
    """Render the content of a marked part of a page anew."""
    paths = [results_parent / name for name in re.split(r",\s+", match["files"])]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{match['files']}: no {missing} in {results_parent / 'results'}")
    try:
        found = load_rows(paths).execute(match["query"])
        head, rows = [column[0] for column in found.description], found.fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"{match['files']}: {error}, in {match['query']!r}") from None
    if not rows:
        raise ValueError(f"{match['files']}: no rows for {match['query']!r}")
    if match["kind"] == "text":
        lines = [" ".join(map(format_cell, row)) for row in rows]
    else:
        lines = ["| " + " | ".join(map(format_cell, row)) + " |" for row in (head, *rows)]
        lines.insert(1, "|" + "---|" * len(head))
    return "\n".join([match["start"], "", *lines, "", match["end"]])


def render_page(page: str, results_parent: Path) -> str:
    """
    Render all tables of a page anew.

    Raises:
        ValueError: for a table without an end, a missing file, and a query that fails or finds nothing.
    """
    num_starts, num_marks = len(START.findall(page)), len(MARK.findall(page))
    if num_starts != num_marks:
        raise ValueError(
            f"{num_starts} tables begin and {num_marks} are whole; expected "
            "'<!-- table: results/NAME.csv QUERY -->' and, after it, '<!-- end -->'"
        )
    return MARK.sub(lambda match: render(match, results_parent), page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a page would change")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project")
    options = parser.parse_args()
    has_changed = False
    for path in list_pages(options.root):
        page = path.read_text(encoding="utf-8")
        name = str(path.relative_to(options.root))
        try:
            rendered = render_page(page, options.root / "benchmarks")
        except ValueError as error:
            sys.exit(f"{name}: {error}")
        if rendered == page:
            continue
        has_changed = True
        if options.check:
            lines = (text.splitlines(keepends=True) for text in (page, rendered))
            sys.stdout.writelines(difflib.unified_diff(*lines, name, f"{name}, from the results"))
        else:
            path.write_text(rendered, encoding="utf-8")
            print(f"written: {name}")
    if options.check and has_changed:
        sys.exit("tables are not what the results say; run: python tools/render_tables.py")


if __name__ == "__main__":
    main()
