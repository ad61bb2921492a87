"""The stored comparison of audio readers is whole and without a fault."""

from __future__ import annotations

import compare_audio_readers as benchmark
from common.csv_files import read_rows
from common.folders import RESULTS

ROWS = read_rows(RESULTS / "audio_containers.csv")


def test_every_pair_is_there_in_every_form() -> None:
    expected = {
        (pair.container, pair.codec, form)
        for pair in benchmark.PAIRS
        for form in benchmark.FORMS
        if form != "unsized" or pair.can_pipe
    }
    assert {(row["container"], row["codec"], row["form"]) for row in ROWS} == expected
    assert len(ROWS) == len(expected)
    assert len(benchmark.PAIRS) >= 40


def test_there_is_no_fault() -> None:
    for row in ROWS:
        assert row["verdict"] == ("error told" if row["form"] == "cut" else "equal"), row


def test_verdicts() -> None:
    judge = benchmark.judge
    assert judge("whole", 20.0, 20.05, 20.0, True) == "equal"
    assert judge("whole", 19.5, 20.0, 19.5, True) == "FAULT"
    assert judge("whole", None, 20.0, None, True) == "FAULT"
    assert judge("unsized", 20.0, None, 20.0, True) == "equal"
    assert judge("joined", 20.0, 20.0, 20.0, True) == "FAULT"
    assert judge("joined", 40.1, 20.0, 20.0, True) == "equal"
    assert judge("cut", 12.0, 12.0, 20.0, True) == "FAULT"
    assert judge("cut", None, 12.0, 20.0, True) == "error told"
    assert judge("cut", None, 12.0, 20.0, False) == "FAULT"
