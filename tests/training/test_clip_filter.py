"""Clips that are left out: each for its reason, named and counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import build_config

from transformers_fastconformer import ClipFilterOptions, FastConformerProcessor, RowForm, filter_clips

OPTIONS = ClipFilterOptions(min_seconds=0.2, max_seconds=2.0)


def row(seconds: float, text: str) -> dict[str, Any]:
    waveform = np.zeros(round(16000 * seconds), dtype=np.float32)
    return {"audio": {"array": waveform, "sampling_rate": 16000}, "text": text}


ROWS = [
    row(1.0, "one two"),
    row(0.1, "one"),
    row(3.0, "one"),
    row(1.0, "  "),
    row(1.0, "one é Two"),
    row(0.3, "one one one one one"),
    {"audio": "missing.wav", "text": "one"},
    row(1.0, "three"),
    {"audio": row(1.0, "")["audio"], "sentence": "one"},
]


def test_every_reason_is_named_and_counted(processor: FastConformerProcessor) -> None:
    config = build_config("tdt_hybrid", vocab_size=49, num_mel_bins=80)
    clips, report = filter_clips(ROWS, RowForm(), processor, config, OPTIONS)
    assert clips.indices == [0, 7]
    assert clips.seconds == [1.0, 1.0]
    assert [(clip.name, clip.reason, clip.detail) for clip in report.left_out] == [
        ("row 1", "too short", "0.10 s"),
        ("row 2", "too long", "3.00 s"),
        ("row 3", "empty text", "'  '"),
        ("row 4", "characters that the tokenizer cannot write", "'é' 'T'"),
        ("row 5", "fewer frames than its text needs", "4 frames, 9 needed"),
        ("missing.wav", "audio that cannot be read", "'missing.wav' does not exist; expected an audio file."),
        (
            "row 8",
            "without a text",
            "text_column='text' has NoneType in a row with ['audio', 'sentence']; expected the "
            "name of a column with text.",
        ),
    ]
    assert set(report.counts().values()) == {1}
    text = report.to_text()
    assert text.startswith("2 clips, 0.00 h\nleft out, too short: 1 clips: row 1 (0.10 s)\n")


@pytest.mark.parametrize(("kind", "is_left_out"), [("ctc", True), ("rnnt", False), ("tdt", False)])
def test_frames_are_needed_by_ctc_only(kind: str, is_left_out: bool, processor: FastConformerProcessor) -> None:
    config = build_config(kind, vocab_size=49, num_mel_bins=80)
    rows = [ROWS[0], row(0.32, "one one one one one")]
    _, report = filter_clips(rows, RowForm(), processor, config, OPTIONS)
    assert bool(report.left_out) == is_left_out


def test_durations_of_tdt_must_fill_the_frames(processor: FastConformerProcessor) -> None:
    config = build_config("tdt_far", vocab_size=49, num_mel_bins=80, durations=[0, 2, 4])
    _, report = filter_clips([row(0.4, "one"), row(0.48, "one")], RowForm(), processor, config, OPTIONS)
    assert [clip.detail for clip in report.left_out] == ["5 frames and durations [0, 2, 4]"]


def test_many_of_a_reason_are_counted_and_few_named(processor: FastConformerProcessor) -> None:
    config = build_config("ctc", vocab_size=49, num_mel_bins=80)
    _, report = filter_clips([ROWS[0], *[ROWS[1]] * 9], RowForm(), processor, config, OPTIONS)
    line = report.to_text().split("\n")[1]
    assert line.startswith("left out, too short: 9 clips: row 1 (0.10 s), ")
    assert line.endswith(", and 4 more")


def test_nothing_left_is_an_error_that_says_why(processor: FastConformerProcessor) -> None:
    config = build_config("ctc", vocab_size=49, num_mel_bins=80)
    with pytest.raises(ValueError, match=r"No clip is left to train on: 0 clips, 0.00 h\nleft out, too long: 1 clips"):
        filter_clips([ROWS[2]], RowForm(), processor, config, OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"), [({"min_seconds": -1}, "min_seconds=-1"), ({"max_seconds": 0.05}, "more than min_")]
)
def test_refusals(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipFilterOptions(**options)
