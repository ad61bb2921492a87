"""Evaluation of a model and of texts that were found before: rates, rows, failures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jiwer
import pytest

from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.evaluation import (
    EvaluationReport,
    ScoringOptions,
    evaluate,
    join_hypotheses,
    score_hypotheses,
)
from transformers_fastconformer.inference.evaluation_data import SpokenText, read_data
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.training.word_errors import WordEdit

SPOKEN = ("three one four one five nine", "two seven one eight zero six")


@pytest.fixture(scope="module")
def demonstration() -> tuple[Any, Any]:
    return load_model("demo", device="cpu")


def score(*pairs: tuple[str, str], **options: Any) -> EvaluationReport:
    items = [SpokenText(str(place), said, hypothesis=found) for place, (said, found) in enumerate(pairs)]
    return score_hypotheses(items, ScoringOptions(**options))


def test_the_demonstration_is_right(demonstration: tuple[Any, Any]) -> None:
    done: dict[int, float] = {}
    rows = [{"audio": str(path), "text": text.upper()} for path, text in zip(CLIP_PATHS, SPOKEN, strict=True)]
    rows[1]["text"] = "Two seven one, eight"
    report = evaluate(demonstration, rows, on_progress=done.__setitem__, batch_size=2)
    assert [file.hypothesis for file in report.files] == list(SPOKEN)
    assert report.wer == pytest.approx(jiwer.wer([SPOKEN[0], "two seven one eight"], list(SPOKEN))) == 2 / 10
    assert report.cer == pytest.approx(jiwer.cer([SPOKEN[0], "two seven one eight"], list(SPOKEN)))
    assert report.confusions() == [(WordEdit("", "six"), 1), (WordEdit("", "zero"), 1)]
    assert [file.name for file in report.worst_files()] == ["1"]
    assert report.audio_seconds == pytest.approx(sum(done.values()))
    assert sorted(done) == [0, 1]
    assert report.real_time_factor is not None
    assert report.real_time_factor > 0
    assert report.failures == ()


def test_a_recording_that_fails_is_in_no_rate(demonstration: tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    rows = [
        {"audio": str(tmp_path / "bad.wav"), "text": "one"},
        {"audio": str(CLIP_PATHS[0]), "text": SPOKEN[0]},
        {"audio": str(CLIP_PATHS[1])},
    ]
    report = evaluate(demonstration, rows)
    assert report.wer == 0.0
    assert report.words.counts.num_reference == 6
    assert [name for name, _ in report.failures] == ["0", "2"]
    assert "data[2] has no 'text'" in str(report.failures[1][1])
    assert report.to_dict()["num_failed"] == 2


def test_normalizers_and_seeds_are_followed() -> None:
    pairs = [("Twenty-one colours.", "21 colors"), ("a b", "a c")]
    errors = {name: score(*pairs, normalizer=name).words.counts.num_errors for name in ("none", "basic", "english")}
    assert errors == {"none": 3, "basic": 4, "english": 1}
    assert score(*pairs, seed=1) == score(*pairs, seed=1)
    many = [("a b c", "a b c"), ("a b", "x b"), ("a", "b")] * 9
    assert score(*many, seed=1).words.low != score(*many, seed=2).words.low
    with pytest.raises(ValueError, match="normalizer='whisper' is not supported"):
        ScoringOptions("whisper")


def test_worst_files_come_by_errors_and_then_by_rate() -> None:
    report = score(("a b c d", "a b x y"), ("a b", "x y"), ("a", "a"), ("a", "b"))
    assert [file.name for file in report.worst_files()] == ["1", "0", "3"]
    assert [file.name for file in report.worst_files(1)] == ["1"]
    assert report.real_time_factor is None
    assert report.audio_seconds is None


def test_texts_without_a_hypothesis_fail() -> None:
    report = score_hypotheses([SpokenText("x", "a"), SpokenText("y", "a", hypothesis="a")])
    assert report.wer == 0.0
    assert str(report.failures[0][1]) == "x has no 'pred_text'; expected the text that was found."


def test_hypotheses_are_joined_by_name(tmp_path: Path) -> None:
    lines = [{"audio_filepath": name, "pred_text": text} for name, text in (("b.wav", "two"), ("a.wav", "one"))]
    (tmp_path / "found.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = [SpokenText(name, "one") for name in ("a.wav", "b.wav", "c.wav")]
    joined = join_hypotheses(items, tmp_path / "found.jsonl")
    assert [item.hypothesis for item in joined] == ["one", "two", None]
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 2))
    with pytest.raises(ValueError, match=r"hypotheses='b.wav' is not supported; expected each recording once"):
        join_hypotheses(items, tmp_path / "twice.jsonl")


def test_rows_for_each_file(tmp_path: Path) -> None:
    report = score(("One, two", "one\ntwo three"), ("ü", 'x "y"'))
    report.save_files(tmp_path / "rows.csv")
    report.save_files(tmp_path / "rows.jsonl")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["pred_text"] for row in from_csv] == ["one\ntwo three", 'x "y"']
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in from_lines] == from_csv
    assert from_lines[0]["wer"] == 0.5
    assert from_lines[0]["word_insertions"] == 1
    # What was written is a manifest, whose texts can be scored again.
    assert score_hypotheses(read_data(tmp_path / "rows.jsonl")).words == report.words
    with pytest.raises(ValueError, match=r"output='.*rows.txt' is not supported; expected a file name that ends in"):
        report.save_files(tmp_path / "rows.txt")


def test_a_report_is_plain_values() -> None:
    described = score(("a b", "a c"), ("", "")).to_dict()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["wer"]["rate"] == 0.5
    assert described["wer"]["substitutions"] == 1
    assert described["confusions"] == [{"reference": "b", "hypothesis": "c", "count": 1}]


def test_unknown_options_are_refused(demonstration: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="beams"):
        evaluate(demonstration, [{"audio": str(CLIP_PATHS[0]), "text": ""}], beams=3)
