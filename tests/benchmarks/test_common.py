"""What benchmarks share: rows, turns and processes; and that no benchmark imports another."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from common.csv_files import read_rows, write_rows
from common.folders import BENCHMARKS
from common.processes import module_command
from common.timing import minimum_and_median, take_turns

SCRIPTS = sorted(BENCHMARKS.glob("*.py"))
COMMON = sorted((BENCHMARKS / "common").glob("*.py"))


@pytest.mark.parametrize("path", [*SCRIPTS, *COMMON], ids=lambda path: path.stem)
def test_no_benchmark_is_imported(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import, which scripts cannot do"
            names.add(str(node.module))
    assert not names & {script.stem for script in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_says_its_question_and_how_it_is_run(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"python benchmarks/{path.name}" in docstring
    if path.stem.startswith("bench_"):
        assert docstring.partition("\n\n")[0].endswith("?")


def test_rows_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "results" / "table.csv"
    assert read_rows(path) == []
    write_rows(path, [{"name": "one, two", "count": 2}])
    assert path.read_bytes() == b'name,count\n"one, two",2\n'
    write_rows(path, [{"count": 1}, {"name": "x"}], ["name", "count", "note"])
    assert read_rows(path) == [{"name": "", "count": "1", "note": ""}, {"name": "x", "count": "", "note": ""}]
    with pytest.raises(ValueError, match="other"):
        write_rows(path, [{"other": 1}], ["name"])


def test_turns() -> None:
    assert list(take_turns("ab", 2)) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert "".join(name for _, name in take_turns("abc", 3, is_alternating=True)) == "abccbaabc"
    assert minimum_and_median([3.0, 1.0, 2.0]) == (1.0, 2.0)


def test_a_module_runs_in_any_folder(tmp_path: Path) -> None:
    command = [*module_command("common.long_audio_systems"), json.dumps({"system": "none"})]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {"error": "KeyError: 'none'"}
