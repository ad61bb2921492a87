"""`fastconformer export-nemo` as a user meets it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fastconformer", "export-nemo", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, output = tmp_path / "ours", tmp_path / "back.nemo"
    convert_nemo_checkpoint(CHECKPOINT_PATH, folder)
    assert run(monkeypatch, folder, "--output", output) == 0
    assert "EncDecHybridRNNTCTCBPEModel, with the configuration that it began with." in capsys.readouterr().out
    assert run(monkeypatch, folder, "--output", output) == 2, "the output is in use"
    assert run(monkeypatch, folder, "--output", output, "--overwrite") == 0
    convert_nemo_checkpoint(CHECKPOINT_PATH, tmp_path / "encoder", encoder_only=True)
    assert run(monkeypatch, tmp_path / "encoder", "--output", tmp_path / "none.nemo") == 1
    assert "model_type='fastconformer' is not supported" in capsys.readouterr().err
