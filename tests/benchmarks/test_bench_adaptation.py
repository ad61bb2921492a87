"""Adaptation to a speaker who was left out: none of the clips that are tested is trained on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench_adaptation import parse_arguments, read_speaker, read_tests

pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
SPEECH = Path(os.environ.get("FASTCONFORMER_SPEECH_DIR", "../shared/speech"))


def test_the_demonstration_has_heard_every_speaker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_adaptation.py", "--speaker", "theo"])
    with pytest.raises(SystemExit):
        parse_arguments()
    assert "expected --model, one without this speaker" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not (SPEECH / "digits").is_dir(), reason="the recordings are not there")
def test_tested_clips_are_not_trained_on() -> None:
    tests = read_tests(SPEECH, "theo")
    assert [len(tests[name]) for name in ("new", "known")] == [50 + 25 + 13 + 7, 52]
    drawn = [read_speaker(SPEECH, "theo", 20, seed) for seed in (0, 0, 1)]
    assert {len(rows) for rows in drawn} == {20}
    texts = [[row["text"] for row in rows] for rows in drawn]
    assert texts[0] == texts[1] != texts[2]
    trained = {row["audio"]["array"][3200:6400].tobytes() for rows in drawn for row in rows}
    assert not trained & {row["audio"]["array"][3200:6400].tobytes() for row in tests["new"]}
