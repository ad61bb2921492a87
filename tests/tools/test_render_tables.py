"""Tables of pages are what the results say; changes, broken marks and broken queries are found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import render_tables

PAGE = """# Title

<!-- table: results/a.csv
SELECT name, fixed(size, 1) AS "size, MB", note FROM rows WHERE kind = 'x' -->

| old |

<!-- end -->

<!-- text: results/a.csv, results/b.csv SELECT source || ': ' || COUNT(*) FROM rows GROUP BY source --> <!-- end -->
"""
RENDERED = """# Title

<!-- table: results/a.csv
SELECT name, fixed(size, 1) AS "size, MB", note FROM rows WHERE kind = 'x' -->

| name | size, MB | note |
|---|---|---|
| one | 2.0 | a \\| b |
| two | 10.5 |  |
| four |  |  |

<!-- end -->

<!-- text: results/a.csv, results/b.csv SELECT source || ': ' || COUNT(*) FROM rows GROUP BY source -->

a: 4
b: 1

<!-- end -->
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("docs/benchmarks", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    results = tmp_path / "benchmarks" / "results"
    (results / "a.csv").write_text("kind,name,size,note\nx,one,2,a | b\nx,two,10.45,\ny,three,1,\nx,four,,\n")
    (results / "b.csv").write_text("name,other\nfour,1.0e-07\n")
    (tmp_path / "README.md").write_text("# Nothing here\n")
    (tmp_path / "docs" / "benchmarks" / "page.md").write_text(PAGE)
    return tmp_path


def run(project: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """The page after a run."""
    monkeypatch.setattr(sys, "argv", ["render_tables.py", "--root", str(project), *options])
    render_tables.main()
    return (project / "docs" / "benchmarks" / "page.md").read_text()


def test_tables_are_written_and_stay(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(project, monkeypatch) == RENDERED
    assert run(project, monkeypatch) == RENDERED
    assert run(project, monkeypatch, "--check") == RENDERED


def test_a_check_writes_nothing_and_fails(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="are not what the results say"):
        run(project, monkeypatch, "--check")
    assert (project / "docs" / "benchmarks" / "page.md").read_text() == PAGE
    assert "+| one | 2.0 | a" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- table: results/a.csv SELECT name FROM rows -->\n", "1 tables begin and 0 are whole"),
        ("<!-- table: a.csv SELECT name FROM rows --><!-- end -->", "1 tables begin and 0 are whole"),
        (
            "<!-- table: results/c.csv SELECT name FROM rows --><!-- end -->",
            r"page\.md: results/c\.csv: no \['c\.csv'",
        ),
        ("<!-- table: results/a.csv SELECT length FROM rows --><!-- end -->", "no such column: length"),
        ("<!-- table: results/a.csv SELECT name FROM rows WHERE size > 99 --><!-- end -->", "no rows for"),
    ],
)
def test_what_cannot_be_rendered_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, page: str, message: str
) -> None:
    (project / "docs" / "benchmarks" / "page.md").write_text(page)
    with pytest.raises(SystemExit, match=message):
        run(project, monkeypatch)


@pytest.mark.parametrize(
    ("values", "name"),
    [(["1", "", "-20"], "INTEGER"), (["1", "2.50"], "REAL"), (["1.0e-07"], "TEXT"), (["1-8", "1"], "TEXT")],
)
def test_types(values: list[str], name: str) -> None:
    assert render_tables.type_of(values) == name


def test_the_pages_have_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["render_tables.py", "--check"])
    render_tables.main()
    pages = [path.read_text(encoding="utf-8") for path in render_tables.list_pages(render_tables.ROOT)]
    assert sum(len(render_tables.MARK.findall(page)) for page in pages) > 10
