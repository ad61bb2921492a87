"""Graphs in 8 bits: their names, and what rounding changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jiwer import wer

from transformers_fastconformer import export_onnx, load_model, read_audio
from transformers_fastconformer.export import int8
from transformers_fastconformer.export.int8 import int8_name

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_names_are_those_that_the_targets_look_for() -> None:
    assert int8_name("encoder-model.onnx") == "encoder-model.int8.onnx"


@pytest.mark.slow
def test_words_in_8_bits_are_nearly_those_of_float32(tmp_path: Path, speech_dir: Path) -> None:
    onnx_asr = pytest.importorskip("onnx_asr")
    pair = load_model("demo", "ctc", "cpu", "float32")
    exact = export_onnx(pair, tmp_path / "float32", verify=True)
    rounded = export_onnx(pair, tmp_path / "int8", int8=True, verify=True)
    assert set(rounded.files) == {"model.int8.onnx", "config.json", "vocab.txt", "export.json"}
    assert rounded.files["model.int8.onnx"] < 0.45 * exact.files["model.onnx"]
    assert not exact.int8_differences
    assert 0.001 < rounded.int8_differences["model.int8.onnx logprobs"] < 0.05
    manifest = json.loads((tmp_path / "int8" / "export.json").read_text())
    assert manifest["int8_relative_rms_differences"] == rounded.int8_differences
    assert manifest["texts"]["clips"] == 2
    assert exact.tokens == rounded.tokens
    assert manifest["tokens"] == {"clips": 2, "tokens": 16, "differences": 0}
    paths = sorted((speech_dir / "digits").rglob("*.flac"))
    chosen = np.random.default_rng(5).choice(len(paths), size=(20, 6))
    clips = [np.concatenate([read_audio(paths[number], 16000) for number in row]) for row in chosen]
    texts = [
        onnx_asr.load_model("nemo-conformer-ctc", tmp_path / name, quantization=quantization).recognize(clips)
        for name, quantization in (("float32", None), ("int8", "int8"))
    ]
    assert wer(*texts) < 0.03


@pytest.mark.slow
def test_rounding_that_changes_too_much_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "MAX_DIFFERENCE", 1e-6)
    pair = load_model("demo", "ctc", "cpu", "float32")
    with pytest.raises(RuntimeError, match=r"model\.int8\.onnx logprobs: 8 bits change the output by"):
        export_onnx(pair, tmp_path / "out", int8=True)
    assert list(tmp_path.iterdir()) == []
