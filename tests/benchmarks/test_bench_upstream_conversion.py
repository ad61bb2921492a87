"""The stored comparison with the conversion scripts of transformers is whole, and its page is written from it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "upstream-comparison.md"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script; it and what it imports lie in folders of their own."""
    path = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("compare_upstream_conversion")
    sys.path[:] = path


def test_every_family_has_its_rows(benchmark: ModuleType) -> None:
    expected = {
        (family.name, str(width))
        for family in benchmark.families_to_compare()
        for width in benchmark.widths_of(family)
    }
    assert {(row["family"], row["width"]) for row in benchmark.read_rows(benchmark.RESULTS)} == expected


def test_every_family_is_equal_in_this_package(benchmark: ModuleType) -> None:
    for row in benchmark.read_rows(benchmark.RESULTS):
        assert row["ours"] == "equal", row["family"]
        assert float(row["ours_encoder"]) <= benchmark.TOLERANCE
        assert row["ours_tokens"] in ("", "3 of 3")
        assert row["upstream"] in benchmark.VERDICTS


def test_the_page_has_the_table_of_the_result(benchmark: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = benchmark.format_table(benchmark.read_rows(benchmark.RESULTS))
    assert benchmark.replace_table(page, table) == page
    assert page.count("\n| ") == len(benchmark.read_rows(benchmark.RESULTS)) + 2
    assert f"at most {benchmark.FEATURE_TOLERANCE}, the encoder's output by at most {benchmark.TOLERANCE} of" in page
