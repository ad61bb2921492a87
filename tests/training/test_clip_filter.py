"""Clips that are left out: each for its reason, named and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import build_config
from prompted_clips import build_prompted
from recordings import encode, tone

from transformers_fastconformer import ClipFilterOptions, FastConformerProcessor, RowForm, filter_clips

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

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
    assert text.startswith("2 clips, 0.00 h\nleft out, too short: 1 clip: row 1 (0.10 s)\n")


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
    with pytest.raises(
        ValueError, match=r"No clip is left to train on; left out, too long: 1 clip: row 0 \(3\.00 s\)\."
    ):
        filter_clips([ROWS[2]], RowForm(), processor, config, OPTIONS)
    with pytest.raises(ValueError, match=r"No clip is left to train on; there are no rows\."):
        filter_clips([], RowForm(), processor, config, OPTIONS)


def test_the_digest_is_of_files_parts_and_texts(
    processor: FastConformerProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config("ctc", vocab_size=49, num_mel_bins=80)
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for path in paths:
        soundfile.write(path, np.zeros(32000, dtype=np.float32), 16000)

    def digest(path: str, offset: float, text: str) -> str:
        line = {"audio_filepath": path, "offset": offset, "duration": 1.0, "text": text}
        return filter_clips([line], RowForm(), processor, config, OPTIONS)[1].digest

    first = digest(paths[0], 0.0, "one")
    others = [digest(paths[1], 0.0, "one"), digest(paths[0], 0.5, "one"), digest(paths[0], 0.0, "two")]
    assert len({first, *others}) == 4
    monkeypatch.chdir(tmp_path)
    assert digest("a.wav", 0.0, "one") == first  # the same file by another name


def test_the_digest_is_of_prompts(tmp_path: Path) -> None:
    model, processor = build_prompted()
    line = {"audio": np.zeros(16000, dtype=np.float32), "answer": "the dog", "source_lang": "en"}
    digests = {
        filter_clips([{**line, **prompt}], RowForm(), processor, model.config, OPTIONS)[1].digest
        for prompt in ({}, {"target_lang": "en"}, {"target_lang": "de"}, {"target_lang": "de", "pnc": "no"})
    }
    assert len(digests) == 3  # the first two are the same prompt


def test_a_part_that_an_mp3_does_not_have_is_left_out(processor: FastConformerProcessor, tmp_path: Path) -> None:
    config = build_config("ctc", vocab_size=49, num_mel_bins=80)
    (tmp_path / "x.mp3").write_bytes(encode(tone(1.5), "mp3"))
    lines = [
        {"audio_filepath": str(tmp_path / "x.mp3"), "text": "one", "offset": offset, "duration": seconds}
        for offset, seconds in ((0.0, 1.0), (0.5, 1.0), (0.0, 1.9), (1.0, 0.9))
    ]
    clips, report = filter_clips(lines, RowForm(), processor, config, OPTIONS)
    assert clips.indices == [0, 1]
    assert [clip.reason for clip in report.left_out] == ["audio that cannot be read"] * 2
    assert "duration=1.9" in report.left_out[0].detail
    for index in range(2):
        assert len(RowForm().waveform_of(clips[index], 16000)) == 16000


@pytest.mark.parametrize(
    ("options", "message"), [({"min_seconds": -1}, "min_seconds=-1"), ({"max_seconds": 0.05}, "more than min_")]
)
def test_refusals(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipFilterOptions(**options)
