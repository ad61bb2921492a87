"""`fastconformer evaluate`: tables, JSON, rows for each file, exit codes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transformers_fastconformer import NgramLanguageModel, PhraseBoosting, load_model, transcribe
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CLIP_PATHS

SPOKEN = ("three one four one five nine", "two seven one eight zero six")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, path in zip(("a", "b"), CLIP_PATHS, strict=True):
        shutil.copy(path, tmp_path / f"{name}.wav")
    lines = [{"audio_filepath": f"{name}.wav", "text": text} for name, text in zip("ab", SPOKEN, strict=True)]
    lines[1]["text"] = "two seven ten"
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., int]:
    """Run the command; its exit code."""

    def run_command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fastconformer", "evaluate", *arguments])
        with pytest.raises(SystemExit) as finished:
            main()
        return int(finished.value.code or 0)

    return run_command


def test_tables(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", "test.jsonl", "--model", "demo") == 0
    out = capsys.readouterr().out
    assert "44.44 %" in out  # 4 of 9 words
    assert "real-time factor" in out
    assert "b.wav" in out
    assert "Most frequent errors" in out


def test_json_rows_and_options(run: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--head", "ctc", "--normalizer", "english", "--limit", "1", "--seed", "3", "--resamples", "50")
    outputs = ("--output", "rows.jsonl", "--output", "rows.csv")
    assert run("--data", "test.jsonl", "--model", "demo", "--json", *options, *outputs) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["wer"]["rate"], result["num_files"], result["normalizer"]) == (0.0, 1, "english")
    assert json.loads((folder / "rows.jsonl").read_text())["pred_text"] == SPOKEN[0]
    assert len((folder / "rows.csv").read_text().splitlines()) == 2


def test_phrases_language_model_and_beams(
    run: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The texts are those of `transcribe` with the same options."""
    model = load_model("demo")
    language_model = NgramLanguageModel.from_text(["nine nine", "one one"], model[1].tokenizer, order=3)
    language_model.save_arpa(folder / "lm.arpa")
    (folder / "names.txt").write_text("nine\n", encoding="utf-8")
    options = ("--keywords", "names.txt", "--keyword_strength", "20", "--num_beams", "3", "--lm", "lm.arpa")
    assert run("--data", "test.jsonl", "--model", "demo", *options, "--lm_weight", "4", "--output", "rows.jsonl") == 0
    capsys.readouterr()
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    expected = transcribe(
        [str(path) for path in CLIP_PATHS],
        model=model,
        num_beams=3,
        boosting=PhraseBoosting(["nine"], strength=20),
        language_model=language_model,
        language_model_weight=4.0,
    )
    assert [row["pred_text"] for row in rows] == [transcript.text for transcript in expected]
    assert rows[0]["pred_text"] != SPOKEN[0]


def test_a_failed_recording_is_named_and_the_code_is_1(
    run: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "test.jsonl").open("a") as file:
        file.write('{"audio_filepath": "gone.wav", "text": "one"}\n{"audio_filepath": "a.wav"}\n')
    assert run("--data", "test.jsonl", "--model", "demo", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["num_failed"] == 2
    assert "gone.wav" in captured.err
    assert "line 4 has no 'text'" in captured.err
    assert "2 of 4 could not be evaluated, and are in no rate." in captured.err


def test_texts_that_were_found_before(
    run: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"audio_filepath": f"{name}.wav", "pred_text": text} for name, text in zip("ba", SPOKEN[::-1], strict=True)
    ]
    (folder / "found.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("--data", "test.jsonl", "--hypotheses", "found.jsonl", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["wer"]["num_errors"] == 4
    assert result["real_time_factor"] is None
    both = [line | {"text": SPOKEN[0]} for line in lines]
    (folder / "both.jsonl").write_text("".join(json.dumps(line) + "\n" for line in both))
    assert run("--hypotheses", "both.jsonl", "--worst", "0") == 0
    out = capsys.readouterr().out
    assert "WER" in out
    assert "Most frequent errors" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "--data is missing; expected a manifest, a folder, or the name of a data set"),
        (("--data", "gone.jsonl", "--model", "demo"), 2, "--data 'gone.jsonl' does not exist; expected a manifest"),
        (("--hypotheses", "gone.jsonl"), 2, "--hypotheses 'gone.jsonl' does not exist"),
        (("--hypotheses", "test.jsonl", "--data", "gone.jsonl"), 2, "--data 'gone.jsonl' does not exist"),
        (("--data", "a b", "--model", "demo"), 2, "--data 'a b' does not exist"),
        (("--data", "test.jsonl", "--model", "demo", "--output", "rows.txt"), 2, "output='rows.txt' is not supported"),
        (("--hypotheses", "test.jsonl", "--model", "demo"), 2, "--model and --hypotheses exclude one another"),
        (("--data", "test.jsonl", "--normalizer", "whisper"), 2, "whisper"),
        (("--data", "test.jsonl", "--model", "demo", "--language", "de"), 2, "language='de' cannot be written"),
        (("--hypotheses", "test.jsonl", "--num_beams", "2"), 2, "--num_beams and --hypotheses exclude one another"),
        (("--data", "test.jsonl", "--lm_weight", "2"), 2, "--lm_weight belongs to --lm"),
    ],
)
def test_wrong_use(
    run: Callable[..., int],
    arguments: tuple[str, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*arguments) == code
    assert message in capsys.readouterr().err


def test_a_missing_library_is_code_3(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    assert run("--data", "test.jsonl", "--model", "demo") == 3
    assert "pip install 'transformers-fastconformer[train]'" in capsys.readouterr().err
