"""What the trainings of the demonstration checkpoints share: their word errors, and a speaker who is left out."""

from __future__ import annotations

import argparse
import random

import pytest

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
pytest.importorskip("jiwer", reason="the extra `train` is not installed")
pytest.importorskip("soxr", reason="the extra `audio` is not installed")

from digit_training import add_left_out_argument, count_word_errors


def distance(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, start=1):
        previous, row[0] = row[0], i
        for j, other in enumerate(hypothesis, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]


def test_word_errors_are_the_edit_distance() -> None:
    generator = random.Random(0)
    for _ in range(100):
        reference, hypothesis = (
            [generator.choice(("one", "two", "three")) for _ in range(generator.randint(0, 6))] for _ in range(2)
        )
        assert count_word_errors(reference, hypothesis) == distance(reference, hypothesis)


def test_a_speaker_who_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_left_out_argument(parser)
    assert parser.parse_args(["--without_speaker", "theo"]).without_speaker == "theo"
    with pytest.raises(SystemExit):
        parser.parse_args(["--without_speaker", "thea"])
    assert "invalid choice: 'thea'" in capsys.readouterr().err
