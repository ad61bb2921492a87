"""`fastconformer export-onnx` as a user meets it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer.cli.main import main
from transformers_fastconformer.export import onnx as door

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["fastconformer", "export-onnx", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # The exporter takes seconds; `export/test_onnx_asr.py` runs it.
    monkeypatch.setattr(door, "write_graph", lambda part, path, *others: path.write_bytes(b"graph"))
    monkeypatch.setattr(door, "check_stages", lambda model, parts, folder: {"model.onnx logprobs": 1e-6})
    folder = tmp_path / "out"
    assert run(monkeypatch, "--model", "demo", "--head", "ctc", "--output_dir", folder) == 0
    printed = capsys.readouterr().out
    assert f"Wrote {folder} for onnx-asr:" in printed
    assert "model.onnx logprobs  1.0e-06" in printed
    assert (folder / "model.onnx").is_file()
    assert run(monkeypatch, "--model", "demo", "--output_dir", folder) == 2, "the folder is in use"
    assert "is not empty" in capsys.readouterr().err
    assert run(monkeypatch, "--model", "demo-streaming", "--output_dir", tmp_path / "none") == 1
    assert "feature_extractor.normalize=None is not supported" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
