"""`tests/` mirrors `src/`: every module has its tests at the same place, and every test belongs to a module."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src" / "transformers_fastconformer"

# Folders of `tests/` that stand for no folder of the package.
NOT_ROOMS = frozenset(
    {
        "support",
        "reference",
        "fixtures",
        "fuzz",
        "equivalence",
        "integration",
        "benchmarks",
        "tools",
        "examples",
        "docs",
    }
)
# Tests of the tree itself.
TREE_TESTS = frozenset({"test_import_direction", "test_layout"})
# Modules without tests of their own, or folders of them, and what tests them. The list only gets shorter.
TESTED_ELSEWHERE = {
    "version": "a line; `cli/test_main.py` asks the command for it",
    "cli.finetune_progress": "through `cli/test_finetune.py`, as users meet it",
    "cli.transcribe_run": "through `cli/test_transcribe_files.py` and `cli/test_exit_codes.py`, as users meet it",
    "decoding.state": "a record; through `decoding/test_transducer_label_looping.py`",
    "inference.recognition": "through `inference/test_file.py`, `inference/test_multitask.py` and their neighbours",
    "inference.transcript": "a record; through `inference/test_file.py` and `inference/test_many_files.py`",
    "interop.model_card": "through `interop/test_writing.py`",
    "interop.refusals": "through `interop/test_reading.py` and `interop/test_writing.py`",
    "kernels.transducer_networks": "through `decoding/test_transducer_label_looping.py`",
    "losses.lattice": "through `losses/test_rnnt.py` and `losses/test_tdt.py`, against loops",
    "modeling.decoding_networks": "through `decoding/test_transducer_label_looping.py`, against the modules",
    "modeling.outputs": "records; through the models that return them",
}


def list_modules(source: Path) -> set[str]:
    """Dotted names below the package. A folder whose `__init__.py` assigns or defines something is a module too."""
    modules = set()
    for path in source.rglob("*.py"):
        parts = path.relative_to(source).with_suffix("").parts
        if parts[-1] != "__init__":
            modules.add(".".join(parts))
        elif len(parts) > 1 and has_content(path):
            modules.add(".".join([*parts[:-1], parts[-2]]))  # as if it were `demonstration/demonstration.py`
    return modules


def has_content(path: Path) -> bool:
    """Tell a module of its own from one that only names what others define."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_list_of_names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        if not isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) and not is_list_of_names:
            return True
    return False


def list_tests(tests: Path) -> set[str]:
    """`room.name` of every `room/test_name.py` in a folder that stands for one of the package."""
    names = set()
    for path in tests.rglob("test_*.py"):
        parts = path.relative_to(tests).with_suffix("").parts
        if parts[0] not in NOT_ROOMS and not (len(parts) == 1 and parts[0] in TREE_TESTS):
            names.add(".".join([*parts[:-1], parts[-1].removeprefix("test_")]))
    return names


def owner_of(test: str, modules: set[str]) -> str | None:
    """
    The module that a test belongs to: the one of its name, or the one with the longest name that it begins with.

    `decoding.confidence_nemo` belongs to `decoding.confidence`: after the module's name there may be `_` and a topic.
    """
    owners = [module for module in modules if test == module or test.startswith(f"{module}_")]
    return max(owners, key=len, default=None)


def is_in(module: str, entry: str) -> bool:
    """Tell whether a module is what an entry names, or in the folder that it names."""
    return module == entry or module.startswith(f"{entry}.")


def find_problems(source: Path, tests: Path, tested_elsewhere: set[str]) -> list[str]:
    """Everything that is not as the mirror wants it, a sentence each."""
    modules, names = list_modules(source), list_tests(tests)
    owners = {name: owner_of(name, modules) for name in names}
    problems = [f"the test {name} belongs to no module" for name in sorted(names) if owners[name] is None]
    tested = set(owners.values())
    covered = {module for module in modules if any(is_in(module, entry) for entry in tested_elsewhere)}
    for module in sorted(modules - tested - covered):
        problems.append(f"{module} has no tests; expected a file test_{module.rpartition('.')[2]}.py in its room")
    for module in sorted(tested_elsewhere & tested):
        problems.append(f"{module} has tests of its own; expected it not to be in TESTED_ELSEWHERE")
    for entry in sorted(tested_elsewhere):
        if not any(is_in(module, entry) for module in modules):
            problems.append(f"{entry} is not a module; expected it not to be in TESTED_ELSEWHERE")
    return problems


def test_the_tests_mirror_the_package() -> None:
    assert find_problems(SOURCE, TESTS, set(TESTED_ELSEWHERE)) == []


def test_the_walk_sees_both_trees() -> None:
    """Guards against a walk over nothing."""
    assert {"frames", "losses.tdt", "demonstration.demonstration"} <= list_modules(SOURCE)
    assert {"frames", "losses.tdt", "decoding.confidence_nemo"} <= list_tests(TESTS)
    assert not {name for name in list_tests(TESTS) if name.split(".")[0] in NOT_ROOMS | TREE_TESTS}


@pytest.mark.parametrize(
    ("tests", "elsewhere", "problem"),
    [
        (("a/test_b.py", "test_top.py"), (), ""),
        (("a/test_b_gpu.py", "a/test_b.py", "test_top_nemo.py"), (), ""),
        (("a/test_b.py",), ("top",), ""),
        (("test_top.py",), ("a",), ""),
        (("a/test_b.py",), (), "top has no tests"),
        (("a/test_b.py", "test_top.py", "a/test_c.py"), (), "a.c belongs to no module"),
        (("a/test_b.py", "test_top.py", "test_b.py"), (), "the test b belongs to no module"),
        (("a/test_bee.py", "test_top.py"), (), "a.bee belongs to no module"),
        (("a/test_b.py", "test_top.py"), ("top",), "top has tests of its own"),
        (("a/test_b.py", "test_top.py"), ("gone",), "gone is not a module"),
        (("a/test_b.py", "test_top.py", "support/test_c.py", "equivalence/test_d.py"), (), ""),
    ],
)
def test_what_is_out_of_place_is_found(
    tmp_path: Path, tests: tuple[str, ...], elsewhere: tuple[str, ...], problem: str
) -> None:
    for name in ("src/top.py", "src/a/__init__.py", "src/a/b.py", *(f"tests/{name}" for name in tests)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    problems = find_problems(tmp_path / "src", tmp_path / "tests", set(elsewhere))
    assert any(problem in found for found in problems) if problem else problems == []


def test_no_test_replaces_the_clock_of_the_process() -> None:
    """The event loop of a server in a thread of the tests would wait for hours. Replace the `time` of a module."""
    texts = {path: path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py") if path.name != "test_layout.py"}
    assert not [path.name for path, text in texts.items() if re.search(r"setattr\((\"time\.|time,)", text)]
