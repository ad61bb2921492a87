"""The comparison itself: it passes what is equal, fails what is not, and says what differs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_cases import make_outputs

from transformers_fastconformer.nemo.stage_comparison import VerificationReport, compare_outputs
from transformers_fastconformer.nemo.stage_outputs import PROBABILITIES, StageOutputs


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


@pytest.mark.parametrize(("change", "passes"), [(1.5e-5, True), (3e-5, False)])
def test_probabilities_are_compared_by_their_logits(change: float, passes: bool) -> None:
    """Logits of 16, which is the most that probabilities in float32 tell, may be off by 5e-6 of that."""
    reference, ours = make_outputs(), make_outputs()
    sure = torch.tensor([[0.0, 1.0, 0.5]])
    reference.tensors[PROBABILITIES], ours.tensors[PROBABILITIES] = [sure], [sure + torch.tensor([0.0, 0.0, change])]
    (row,) = (row for row in compare_outputs([reference], [ours]) if row.stage == PROBABILITIES)
    assert row.passed == passes


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


def test_report_is_written_and_an_empty_one_is_no_proof(tmp_path: Path) -> None:
    ours = make_outputs()
    ours.tensors["encoder"][0][0, 0] = math.nan
    report = VerificationReport("NeMo", "float32", "cpu", ["clip"], compare_outputs([make_outputs()], [ours]))
    content = json.loads(report.save(tmp_path).read_text())
    assert content["passed"] is False
    assert {row["stage"] for row in content["rows"]} == {row.stage for row in report.rows}
    assert "**FAIL**" in report.to_markdown()
    assert not VerificationReport("NeMo", "float32", "cpu", [], []).passed
