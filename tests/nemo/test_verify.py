"""The comparison itself: it passes what is equal, fails what is not, and says what differs."""

from __future__ import annotations

import builtins
import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS, EXPECTATIONS_PATH
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.reference import (
    ClipHypothesis,
    NemoRunner,
    StageOutputs,
    load_stage_outputs,
    save_stage_outputs,
)
from transformers_fastconformer.nemo.verify import (
    VerificationReport,
    build_batches,
    compare_outputs,
    verify_against_stored,
)


def make_outputs() -> StageOutputs:
    generator = torch.Generator().manual_seed(0)
    hypothesis = ClipHypothesis(
        tokens=[1, 2],
        batch_tokens=[1, 2],
        frame_indices=[0, 3],
        durations=[1, 4],
        text="a b",
        timestamps={"char": [("a", 0, 1, 0.0, 0.08)], "word": [("a", 0, 1, 0.0, 0.08)], "segment": []},
    )
    return StageOutputs(
        name="clip",
        tensors={
            "features": [torch.randn(7, 4, generator=generator)],
            "encoder": [torch.randn(2, 8, generator=generator)],
        },
        hypotheses={"tdt": [hypothesis]},
        joint_targets=[[1, 2]],
    )


def rows_of(ours: StageOutputs, **kwargs: Any) -> dict[str, Any]:
    return {row.stage: row for row in compare_outputs([make_outputs()], [ours], **kwargs)}


def test_equal_outputs_pass() -> None:
    rows = rows_of(make_outputs())
    assert all(row.passed for row in rows.values())
    assert {"features", "encoder", "tdt: tokens", "tdt: durations", "tdt: timestamps", "tdt: text"} <= set(rows)


@pytest.mark.parametrize("stage", ["features", "encoder"])
@pytest.mark.parametrize("change", [1e-3, math.nan, math.inf])
def test_other_numbers_fail(stage: str, change: float) -> None:
    ours = make_outputs()
    ours.tensors[stage][0][1, 2] += change
    rows = rows_of(ours)
    assert not rows[stage].passed
    assert sum(not row.passed for row in rows.values()) == 1


def test_rounding_passes_where_it_may() -> None:
    ours = make_outputs()
    for clips in ours.tensors.values():
        clips[0] *= 1 + 1e-6
    rows = rows_of(ours)
    assert rows["encoder"].passed
    assert not rows["features"].passed  # bit-equal or nothing


def test_features_of_other_batches_may_be_rounded() -> None:
    ours = make_outputs()
    ours.tensors["features"][0] *= 1 + 1e-6
    for own in (None, [make_outputs()]):
        assert rows_of(ours, are_features_exact=False, reference_16_bit=own)["features"].passed
    ours.tensors["features"][0] *= 1 + 1e-4
    assert not rows_of(ours, are_features_exact=False)["features"].passed


def test_stored_outputs_may_be_rounded_by_another_machine() -> None:
    ours = make_outputs()
    for clips in ours.tensors.values():
        clips[0] *= 1 + 5e-5
    assert all(row.passed for row in rows_of(ours, is_stored=True).values())
    assert not any(rows_of(ours)[stage].passed for stage in ("features", "encoder"))
    ours.tensors["features"][0] += 1e-2
    assert not rows_of(ours, is_stored=True)["features"].passed


def test_other_shape_and_missing_clips_fail() -> None:
    ours = make_outputs()
    ours.tensors["encoder"] = [ours.tensors["encoder"][0][:1]]
    row = rows_of(ours)["encoder"]
    assert not row.passed
    assert "(1, 8)" in row.detail
    assert "(2, 8)" in row.detail
    del ours.tensors["encoder"]
    assert not rows_of(ours)["encoder"].passed


@pytest.mark.parametrize(
    ("name", "value", "stage"),
    [
        ("tokens", [1, 3], "tokens"),
        ("batch_tokens", [1], "tokens in a batch"),
        ("frame_indices", [0, 4], "frame indices"),
        ("durations", [1, 3], "durations"),
        ("text", "a  b", "text"),
        ("timestamps", {"char": [], "word": [], "segment": []}, "timestamps"),
    ],
)
def test_other_results_fail(name: str, value: object, stage: str) -> None:
    ours = make_outputs()
    setattr(ours.hypotheses["tdt"][0], name, value)
    rows = rows_of(ours)
    assert [row.stage for row in rows.values() if not row.passed] == [f"tdt: {stage}"]
    assert repr(value)[:20] in rows[f"tdt: {stage}"].detail


def test_sixteen_bits_are_measured_by_nemos_own_error() -> None:
    own, ours = make_outputs(), make_outputs()
    own.tensors["encoder"][0] += 0.01
    ours.tensors["encoder"][0] += 0.0109
    assert rows_of(ours, reference_16_bit=[own])["encoder"].passed
    ours.tensors["encoder"][0] += 0.0002
    assert not rows_of(ours, reference_16_bit=[own])["encoder"].passed


def test_stored_outputs_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "outputs.safetensors"
    save_stage_outputs(path, [make_outputs()], {"nemo": "3.0.0"})
    (loaded,), provenance = load_stage_outputs(path)
    assert provenance == {"nemo": "3.0.0"}
    assert loaded.hypotheses == make_outputs().hypotheses
    assert all(row.passed for row in rows_of(loaded).values())


def test_report_is_written_and_an_empty_one_is_no_proof(tmp_path: Path) -> None:
    ours = make_outputs()
    ours.tensors["encoder"][0][0, 0] = math.nan
    report = VerificationReport("NeMo", "float32", "cpu", ["clip"], compare_outputs([make_outputs()], [ours]))
    content = json.loads(report.save(tmp_path).read_text())
    assert content["passed"] is False
    assert {row["stage"] for row in content["rows"]} == {row.stage for row in report.rows}
    assert "**FAIL**" in report.to_markdown()
    assert not VerificationReport("NeMo", "float32", "cpu", [], []).passed


def test_batches_hold_what_conversions_stumble_over() -> None:
    clip = np.ones(40001, dtype=np.float32)
    batches = build_batches({"a": clip, "b": clip[:300]}, 16000)
    assert batches["a alone"][0] is clip
    assert [len(waveform) for waveform in batches["all clips in one batch"]] == [40001, 300]
    assert any(not waveform.any() for waveforms in batches.values() for waveform in waveforms)
    assert min(len(waveform) for waveforms in batches.values() for waveform in waveforms) <= 320


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demonstration") / "digits"
    convert_nemo_checkpoint(CHECKPOINT_PATH, folder)
    return folder


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    return {path.name: read_audio(path) for path in CLIP_PATHS}


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_demonstration_agrees_with_stored_outputs(
    converted: Path, clips: dict[str, np.ndarray], attn_implementation: str
) -> None:
    report = verify_against_stored(EXPECTATIONS_PATH, converted, clips, attn_implementation)
    assert report.passed, report.to_markdown()
    assert {"features", "subsampling", "block 0", "encoder", "CTC log-probabilities", "joint log-probabilities"} <= {
        row.stage for row in report.rows
    }
    assert report.reference.startswith("stored outputs of NeMo 3")


def test_a_changed_weight_is_found(converted: Path, clips: dict[str, np.ndarray], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in converted.iterdir():
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


def test_without_nemo_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = copy.copy(builtins.__import__)

    def without_nemo(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "nemo" or name.startswith("nemo."):
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_nemo)
    with pytest.raises(ImportError, match=r"pip install 'transformers-fastconformer\[nemo\]'"):
        NemoRunner(CHECKPOINT_PATH)
