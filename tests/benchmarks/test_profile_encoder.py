"""The profile of the encoder: every part of a pass is named, the parts are all of it, other rows stay."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import profile_encoder
from common.csv_files import read_rows, write_rows
from transformers_fastconformer.kernels.layers import has_fused_product

needs_products = pytest.mark.skipif(not has_fused_product(torch.float32), reason="torch has no fused product here")


@needs_products
def test_parts_are_named_and_are_all_of_a_pass(
    tmp_path: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profile_encoder_cpu.csv"
    other = {"shape": "tiny", "dtype": "float32", "audio_seconds": "7", "part": "norms", "milliseconds": "1.00"}
    former = {**other, "audio_seconds": "2", "part": "of a former run"}
    write_rows(path, [other, former], profile_encoder.ALL_COLUMNS)
    monkeypatch.setattr(profile_encoder, "RESULTS", tmp_path)
    arguments = ["--shape", "tiny", "--dtype", "float32", "--seconds", "2", "--passes", "1"]
    monkeypatch.setattr(sys, "argv", ["profile_encoder.py", *arguments, "--folder", str(encoder_folder)])
    profile_encoder.main()
    rows = read_rows(path)
    kept = [row for row in rows if row["audio_seconds"] == "7"]
    assert [row["milliseconds"] for row in kept] == ["1.00"]
    parts = {row["part"]: row for row in rows if row["audio_seconds"] == "2"}
    assert len(parts) == len(rows) - 1
    assert "of a former run" not in parts  # this run stands in its place
    milliseconds = {part: float(row["milliseconds"]) for part, row in parts.items()}
    total = milliseconds.pop("all")
    assert sum(milliseconds.values()) == pytest.approx(total, abs=0.01 * len(milliseconds))
    # Two blocks: four feed-forward modules of two layers, four projections, two pointwise convolutions each.
    calls = {part: int(row["calls"]) for part, row in parts.items()}
    assert calls["products: feed forward"] == 8
    assert calls["products: attention"] == 8
    assert calls["products: convolution"] == 4
    assert {"attention: scores, softmax and values", "attention: position term", "norms", "python"} <= set(calls)
    assert {"depthwise convolutions", "subsampling: convolutions", "subsampling: linear layer"} <= set(calls)


@pytest.mark.parametrize(
    ("parts", "name", "parent", "expected"),
    [
        (["8 bits", "feed forward"], "qlinear_pointwise", "part: 8 bits", "products: feed forward"),
        (["8 bits", "feed forward"], "round_", "part: 8 bits", "8 bits: rounding and scaling"),
        (["8 bits", "subsampling"], "amax", "part: 8 bits", "subsampling: convolutions"),
        (["attention"], "bmm", "matmul", "attention: position term"),
        (["attention"], "bmm", "part: attention", "attention: scores and values"),
        ([], "add", "part: all", "sums, scales and masks"),
    ],
)
def test_an_operation_belongs_to_its_place(parts: list[str], name: str, parent: str, expected: str) -> None:
    assert profile_encoder.find_part(parts, name, parent) == expected
