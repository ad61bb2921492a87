"""The comparison on long files: words are counted right, what fails leaves its reason, stored rows add up."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import bench_longform_systems as benchmark
from common import long_audio_systems
from common.csv_files import read_rows
from common.processes import run_limited
from common.spoken_digits import COUNTS
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS

CLIP_TEXT = "three one four one five nine"


# Words


@pytest.mark.parametrize(
    ("found", "lost", "doubled", "added", "wrong", "percent"),
    [
        ("one two three four", 0, 0, 0, 0, 0.0),
        ("one three four", 1, 0, 0, 0, 25.0),
        ("one two two three four", 0, 1, 0, 0, 25.0),
        ("one two nine three four", 0, 0, 1, 0, 25.0),
        ("one two nine four", 0, 0, 0, 1, 25.0),
        ("one two three", 1, 0, 0, 0, 25.0),
        ("", 4, 0, 0, 0, 100.0),
    ],
)
def test_words_are_counted(found: str, lost: int, doubled: int, added: int, wrong: int, percent: float) -> None:
    counted = benchmark.count_words(["one", "two", "three", "four"], found.split())
    assert counted == {
        **{"words": 4, "lost": lost, "doubled": doubled, "added": added, "wrong": wrong},
        "error_percent": percent,
    }


# Rows


def test_new_rows_take_the_place_of_old_ones_in_the_order_of_cases() -> None:
    first, second = benchmark.list_cases()[:2]

    def row(file: str, case: Any, seconds: float) -> dict[str, Any]:
        return {"file": file, "head": case.head, "system": case.system, "how": case.how, "seconds": seconds}

    old = [row("crimson", first, 1.0), row("digits", second, 2.0), {**row("digits", first, 3.0), "how": "of old"}]
    new = [row("digits", second, 4.0), row("digits", first, 5.0)]
    merged = benchmark.merge_rows(old, new)
    assert merged == [row("digits", first, 5.0), row("digits", second, 4.0), row("crimson", first, 1.0)]


def test_cases_differ_and_have_options_that_their_loaders_take() -> None:
    cases = benchmark.list_cases()
    assert len({(case.head, case.system, case.how) for case in cases}) == len(cases)
    for case in cases:
        inspect.signature(long_audio_systems.LOADERS[case.system]).bind("checkpoint", case.head, **case.options)


def test_stored_rows_add_up() -> None:
    rows = read_rows(benchmark.RESULT)
    assert rows
    assert benchmark.merge_rows([], rows) == rows, "rows of no case, twice, or out of order"
    for row in rows:
        if row["note"]:
            assert not row["seconds"], row
            continue
        errors = sum(int(row[count]) for count in COUNTS)
        assert float(row["error_percent"]) == pytest.approx(100 * errors / int(row["words"]), abs=0.01), row
        assert float(row["seconds"]) > 0, row
        assert row["version"], row
    assert not [row for row in rows if row["system"] == "transformers_fastconformer" and row["note"]]


# Processes


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ('print("noise"); print(\'{"text": "one"}\')', {"text": "one"}),
        ("raise SystemExit(3)", {"error": "ended with code 3"}),
        ("import time; time.sleep(60)", {"error": "more than 0.5 s"}),
        ("import time; held = b'1' * 2**28; time.sleep(60)", {"error": "more than 0.125 GiB of memory"}),
    ],
)
def test_a_process_answers_or_leaves_its_reason(code: str, answer: dict[str, str]) -> None:
    max_seconds = 0.5 if answer.get("error") == "more than 0.5 s" else 60.0
    assert run_limited(python(code), 2**27, max_seconds) == answer


def request(system: str, path: Path, **options: Any) -> dict[str, Any]:
    return {
        **{"system": system, "checkpoint": str(CHECKPOINT_PATH), "head": "transducer"},
        **{"clip": str(path), "path": str(path), "options": options},
    }


@pytest.mark.slow
def test_the_worker_measures_this_package(tmp_path: Path) -> None:
    answer = benchmark.run_worker(request("transformers_fastconformer", CLIP_PATHS[0], strategy="full"), 2**32, 300.0)
    assert answer["text"] == CLIP_TEXT, answer
    assert answer["seconds"] >= 0
    assert answer["peak_mib"] >= 0
    missing = benchmark.run_worker(request("transformers_fastconformer", tmp_path / "none.wav"), 2**32, 300.0)
    assert missing["error"].startswith("FileNotFoundError: "), json.dumps(missing)


@pytest.mark.nemo
@pytest.mark.parametrize(
    "options",
    [
        {"method": "whole"},
        {"method": "middle", "chunk_seconds": 1.6, "buffer_seconds": 4.0},
        {"method": "lcs", "chunk_seconds": 20.0, "buffer_seconds": 30.0},
        {"method": "stateful", "left_seconds": 10.0, "chunk_seconds": 2.0, "right_seconds": 2.0},
    ],
    ids=lambda options: options["method"],
)
def test_the_worker_measures_nemo(options: dict[str, Any]) -> None:
    pytest.importorskip("nemo")
    answer = benchmark.run_worker(request("nemo", CLIP_PATHS[0], **options), 2**33, 300.0)
    if options["method"] in ("middle", "lcs"):
        # Merging loses or adds words before the first of so short a clip.
        assert answer.get("text", "").endswith(CLIP_TEXT.split(maxsplit=2)[-1]), answer
    else:
        assert answer.get("text") == CLIP_TEXT, answer
