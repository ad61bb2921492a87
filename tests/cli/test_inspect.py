"""`fastconformer inspect` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from archives import rewrite_archive

from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CHECKPOINT_PATH


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fastconformer", "inspect", "--model", *arguments])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def refused_checkpoint(tmp_path: Path) -> Path:
    """The demonstration checkpoint with an option that nobody has."""
    return rewrite_archive(
        CHECKPOINT_PATH,
        tmp_path / "refused.nemo",
        lambda config: config["encoder"].update(self_attention_model="rope"),
    )


def test_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, str(CHECKPOINT_PATH)) == 0
    printed = capsys.readouterr().out
    for words in ("hybrid_tdt_ctc", "ParakeetTDTForTDT", "SentencePiece, 48 tokens", "scale_input", "Convertible."):
        assert words in printed


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, str(CHECKPOINT_PATH), "--json", "--encoder_only") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["is_convertible"], found["architecture"]) == (True, "FastConformerModel")
    assert set(found["parts_left_out"]) == {"ctc_decoder", "decoder", "joint"}


def test_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused_checkpoint: Path
) -> None:
    assert run(monkeypatch, str(refused_checkpoint)) == 1
    printed = capsys.readouterr().out
    assert "Refused: encoder.self_attention_model='rope' is not supported; expected" in printed
    assert "EncDecHybridRNNTCTCBPEModel" in printed
    assert run(monkeypatch, str(refused_checkpoint), "--json") == 1
    assert json.loads(capsys.readouterr().out)["refusal"].startswith("encoder.self_attention_model='rope'")


def test_no_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "missing.nemo") == 2
    assert capsys.readouterr().err.startswith("error: 'missing.nemo' does not exist; expected")


def test_a_damaged_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.nemo").write_text("not an archive")
    assert run(monkeypatch, str(tmp_path / "text.nemo")) == 1
    assert "not a .nemo archive" in capsys.readouterr().err


def test_the_demonstration_checkpoint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "demo") == 0
    assert "Convertible." in capsys.readouterr().out


def test_a_folder_of_this_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], saved_model: Any
) -> None:
    assert run(monkeypatch, str(saved_model("ctc")[1])) == 0
    printed = capsys.readouterr().out
    assert "In the form of this package." in printed
    assert "FastConformerForCTC" in printed
    assert "Convertible." not in printed
