"""The stored comparison with the conversion scripts of transformers is whole."""

from __future__ import annotations

import bench_upstream_conversion as benchmark
from common.csv_files import read_rows
from common.folders import ROOT

PAGE = ROOT / "docs" / "benchmarks" / "upstream-conversion.md"


def test_every_family_has_its_rows() -> None:
    expected = {
        (family.name, str(width))
        for family in benchmark.families_to_compare()
        for width in benchmark.widths_of(family)
    }
    assert {(row["family"], row["width"]) for row in read_rows(benchmark.RESULT)} == expected


def test_every_family_is_equal_in_this_package() -> None:
    for row in read_rows(benchmark.RESULT):
        assert row["ours"] == "equal", row["family"]
        assert float(row["ours_encoder"]) <= benchmark.TOLERANCE
        assert row["ours_tokens"] in ("", "3 of 3")
        assert row["upstream"] in benchmark.VERDICTS


def test_the_page_says_what_counts_as_equal() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert f"at most {benchmark.FEATURE_TOLERANCE}, the encoder's output by at most {benchmark.TOLERANCE} of" in page
