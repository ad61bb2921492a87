"""
Measures of the package's structure: modules at the top, longest files and functions, complexity, imports.

    python tools/measure_house.py [--at REVISION]

Complexity is McCabe's, as ruff counts it. `--at` measures an older state, which git writes to a temporary folder.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import tempfile
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "transformers_fastconformer"
NUM_SHOWN = 5


@contextmanager
def source_at(revision: str | None) -> Iterator[Path]:
    """Folder of the package now, or as it was at a revision."""
    if revision is None:
        yield ROOT / "src" / PACKAGE
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", revision, "src"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder) / "src" / PACKAGE


def function_lengths(package: Path) -> list[tuple[int, str]]:
    """Lines of each function from its `def` to its end, without its docstring, the longest first."""
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
                length = (node.end_lineno or 0) - node.lineno + 1 - docstring
                found.append((length, f"{path.relative_to(package)}: {node.name}"))
    return sorted(found, reverse=True)


def complexities(package: Path) -> list[tuple[int, str]]:
    """McCabe complexity of each function, the highest first."""
    command = ["ruff", "check", "--isolated", "--select", "C901", "--config", "lint.mccabe.max-complexity=0"]
    result = subprocess.run([*command, "--output-format", "json", str(package)], capture_output=True, text=True)
    found = []
    for item in json.loads(result.stdout):
        match = re.match(r"`(.+)` is too complex \((\d+)", item["message"])
        assert match is not None
        found.append((int(match[2]), f"{Path(item['filename']).relative_to(package.resolve())}: {match[1]}"))
    return sorted(found, reverse=True)


def imports_inside(package: Path) -> tuple[dict[str, set[str]], list[str]]:
    """Modules of the package that each module imports, and the private names that cross modules."""
    paths = {}
    for path in package.rglob("*.py"):
        parts = list(path.relative_to(package).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        paths[".".join(parts[:-1] if is_package else parts)] = (path, is_package)
    imports: dict[str, set[str]] = {module: set() for module in paths}
    private = []
    for module, (path, is_package) in paths.items():
        parents = module.split(".") if is_package and module else module.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.ImportFrom) and node.level):
                continue
            base = [*parents[: len(parents) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                target = ".".join([*base, alias.name])
                imported = target if target in paths else ".".join(base)
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    private.append(f"{module} imports {target}")
                if imported not in (module, module.rpartition(".")[0]):
                    imports[module].add(imported)
    return imports, private


def find_circle(imports: dict[str, set[str]]) -> str:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return " > ".join(error.args[1])
    return "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", metavar="REVISION", help="a revision of git; default: the files as they are")
    with source_at(parser.parse_args().at) as package:
        modules = sorted(package.rglob("*.py"))
        top = [path.name for path in package.glob("*.py")]
        lines = sorted((len(path.read_text().splitlines()), str(path.relative_to(package))) for path in modules)
        imports, private = imports_inside(package)
        print(f"modules: {len(modules)}, lines: {sum(count for count, _ in lines)}, at the top: {len(top)}")
        for title, rows in (
            ("longest files", lines[::-1]),
            ("longest functions, without docstrings", function_lengths(package)),
            ("highest complexity", complexities(package)),
        ):
            print(f"{title}:")
            for value, name in rows[:NUM_SHOWN]:
                print(f"  {value:5d}  {name}")
        print(f"circles: {find_circle(imports)}")
        print(f"private names across modules: {len(private)}{''.join(f'{chr(10)}  {item}' for item in private)}")


if __name__ == "__main__":
    main()
