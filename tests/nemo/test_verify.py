"""Verification of the demonstration checkpoint: it agrees with NeMo, and a changed weight is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS, EXPECTATIONS_PATH
from transformers_fastconformer.nemo.verify import build_batches, verify_against_stored


def test_batches_hold_what_conversions_stumble_over() -> None:
    clip = np.ones(40001, dtype=np.float32)
    batches = build_batches({"a": clip, "b": clip[:300]}, 16000)
    assert batches["a alone"][0] is clip
    assert [len(waveform) for waveform in batches["all clips in one batch"]] == [40001, 300]
    assert any(not waveform.any() for waveforms in batches.values() for waveform in waveforms)
    assert min(len(waveform) for waveforms in batches.values() for waveform in waveforms) <= 320


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    return {path.name: read_audio(path) for path in CLIP_PATHS}


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_demonstration_agrees_with_stored_outputs(
    converted_folder: Path, clips: dict[str, np.ndarray], attn_implementation: str
) -> None:
    report = verify_against_stored(EXPECTATIONS_PATH, converted_folder, clips, attn_implementation)
    assert report.passed, report.to_markdown()
    assert {"features", "subsampling", "block 0", "encoder", "CTC log-probabilities", "joint log-probabilities"} <= {
        row.stage for row in report.rows
    }
    assert report.reference.startswith("stored outputs of NeMo 3")


def test_a_changed_weight_is_found(converted_folder: Path, clips: dict[str, np.ndarray], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in converted_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    name = "encoder.layers.1.self_attn.bias_v"
    tensors[name] = tensors[name] + 0.05
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    report = verify_against_stored(EXPECTATIONS_PATH, broken, clips)
    passed = {row.stage: row.passed for row in report.rows}
    assert passed["block 0"]
    assert not passed["block 1"]
    assert not passed["encoder"]
    assert not report.passed
