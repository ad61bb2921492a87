"""Texts of the target's own program next to those of the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from transformers_fastconformer import export_onnx
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.export import onnx as door
from transformers_fastconformer.export import onnx_asr
from transformers_fastconformer.export.graph_decoding import TokenCheck
from transformers_fastconformer.export.text_checks import check_package, check_texts

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs without the exporter, which takes seconds."""
    monkeypatch.setattr(door, "write_graph", lambda part, path, *others: path.write_bytes(b"graph"))
    monkeypatch.setattr(door, "check_stages", lambda model, parts, folder: {"encoder-model.onnx outputs": 1e-6})
    monkeypatch.setattr(door, "check_tokens", lambda *others: TokenCheck(2, 16, 0))


def test_a_target_without_a_package_and_one_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="verify=True is not supported; expected False for target='plain'"):
        check_package("plain")
    monkeypatch.setitem(sys.modules, "sherpa_onnx", None)
    with pytest.raises(ImportError, match="pip install sherpa-onnx"):
        check_package("sherpa-onnx")


def test_texts_of_the_model_stand_next_to_those_of_the_target(demonstration: tuple[Any, Any], tmp_path: Path) -> None:
    form = SimpleNamespace(transcribe=lambda folder, model, processor, waveforms, is_int8: [" one"] * len(waveforms))
    checks = check_texts(form, tmp_path, *demonstration, CLIP_PATHS, is_int8=False)
    assert [check.found for check in checks] == ["one", "one"]
    assert checks[0].expected.split()[:3] == ["three", "one", "four"]


def test_other_texts_leave_nothing_but_in_8_bits(
    demonstration: tuple[Any, Any], quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx_asr")
    monkeypatch.setattr(onnx_asr, "transcribe", lambda *others: ["nine", "eight"][: len(others[3])])
    with pytest.raises(RuntimeError, match="onnx-asr transcribes 2 of 2 clips otherwise than the model"):
        export_onnx(demonstration, tmp_path / "out", verify=True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(
        door, "quantize_graphs", lambda model, parts, folder: {"encoder-model.int8.onnx outputs": 0.01}
    )
    result = export_onnx(demonstration, tmp_path / "out", int8=True, verify=True, verify_audio=CLIP_PATHS[:1])
    assert [check.found for check in result.texts] == ["nine"]
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert manifest["texts"]["identical"] == 0
    assert manifest["tokens"] == {"clips": 2, "tokens": 16, "differences": 0}
    monkeypatch.setattr(door, "check_tokens", lambda *others: TokenCheck(2, 16, 3))
    with pytest.raises(RuntimeError, match="3 of 16 tokens by the graphs differ"):
        export_onnx(demonstration, tmp_path / "other", verify=True)
    counted = export_onnx(demonstration, tmp_path / "out", int8=True, overwrite=True)
    assert counted.tokens == TokenCheck(2, 16, 3)
    with pytest.raises(ValueError, match="verify_audio"):
        export_onnx(demonstration, tmp_path / "other", verify_audio=CLIP_PATHS)
