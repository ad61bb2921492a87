"""The course of a run: read from the trainer's log, as a table, a picture and a card."""

from __future__ import annotations

from pathlib import Path

import pytest

from transformers_fastconformer.training.curve import Point, describe_run, format_curve, plot_curve, read_curve

LOG = [
    {"step": 0, "eval_loss": 3.0, "eval_wer": 0.5, "eval_cer": 0.4},
    {"step": 1, "loss": 2.0},
    {"step": 2, "loss": 1.0},
    {"step": 2, "eval_loss": 1.5, "eval_wer": 0.25, "eval_cer": 0.2},
    {"step": 3, "loss": 0.5},
    {"step": 4, "eval_loss": 1.6, "eval_wer": 0.3, "eval_cer": 0.25},
    {"step": 4, "train_runtime": 3.0},
]
CURVE = [Point(0, None, 3.0, 0.5, 0.4), Point(2, 1.5, 1.5, 0.25, 0.2), Point(4, 0.5, 1.6, 0.3, 0.25)]


def test_a_log_is_read_by_evaluation() -> None:
    assert read_curve(LOG) == CURVE
    twice = [*LOG[:4], {"step": 2, "eval_loss": 1.5, "eval_wer": 0.25, "eval_cer": 0.2}]
    assert read_curve(twice) == CURVE[:2]


def test_the_table_has_the_best_marked() -> None:
    assert format_curve(CURVE).split("\n")[2:] == [
        "| 0 |  | 3.000 | 50.00 % | 40.00 % |",
        "| 2 (best) | 1.500 | 1.500 | 25.00 % | 20.00 % |",
        "| 4 | 0.500 | 1.600 | 30.00 % | 25.00 % |",
    ]


def test_the_best_is_the_one_whose_weights_were_kept() -> None:
    worse = [Point(0, None, 1.0, 0.1, 0.1), Point(2, 1.0, 1.0, 0.3, 0.1), Point(4, 1.0, 1.0, 0.2, 0.1)]
    assert [line.split("|")[1] for line in format_curve(worse).split("\n")[2:]] == [" 0 ", " 2 ", " 4 (best) "]


def test_of_many_evaluations_few_are_shown_and_the_best_and_last_always() -> None:
    points = [Point(step, 1.0, 1.0, 0.1 if step == 37 else 0.5, 0.1) for step in range(100)]
    lines = format_curve(points).split("\n")[2:]
    assert len(lines) <= 23
    assert any(line.startswith("| 37 (best)") for line in lines)
    assert lines[-1].startswith("| 99 ")


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert plot_curve(CURVE, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_keeps_licence_and_languages() -> None:
    card = describe_run(
        "nvidia/some", "---\nlicense: cc-by-4.0\nlanguage:\n- en\n---\n# Old", CURVE, True, {"time": "1 s"}
    )
    text = card.to_markdown()
    assert text.startswith("---\nlicense: cc-by-4.0\nlanguage:\n- en\n---\n\n# some, fine-tuned")
    assert "- time: 1 s" in text
    assert "(training_curve.png)" in text
    assert "# Old" not in text
    plain = describe_run("nvidia/some", None, [], False, {}).to_markdown()
    assert "pipeline_tag: automatic-speech-recognition" in plain
    assert "## Course" not in plain
