"""The systems of the multitask benchmark write the same tokens, as many as are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench_multitask import list_systems, make_inputs
from common.multitask_systems import DTYPES, SYSTEMS, missing_instructions, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("multitask") / "tiny.safetensors"
    write_weights("tiny", path)
    return path


def decode(system: str, weights: Path) -> Any:
    passes = SYSTEMS[system]("tiny", weights, "float32")
    with torch.no_grad():
        return passes.decode(passes.encode(*make_inputs("tiny", 3, 2.0)), 12)


def test_ours_writes_as_many_tokens_as_asked(weights: Path) -> None:
    tokens = decode("ours", weights)
    assert [len(row) for row in tokens] == [12, 12, 12]
    assert len({tuple(row) for row in tokens}) == 3
    assert all(len(set(row)) > 2 for row in tokens)


@pytest.mark.parametrize(
    "system",
    [
        pytest.param("nemo", marks=pytest.mark.nemo),
        pytest.param("onnxruntime", marks=pytest.mark.nemo),
        "transformers",
    ],
)
def test_systems_write_the_same_tokens(system: str, weights: Path) -> None:
    if system == "transformers":
        pytest.importorskip("transformers.models.canary", reason="needs transformers with Canary")
    if system == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime")
        pytest.importorskip("onnx", reason="needs onnx")
    assert decode(system, weights) == decode("ours", weights)


def test_a_type_without_instructions_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert missing_instructions("float32") is None
    monkeypatch.setattr(
        "bench_multitask.missing_instructions", lambda dtype: f"no {dtype}" if dtype == "int8" else None
    )
    names = list_systems(DTYPES, ["nemo"])
    assert names == ["ours_float32", "nemo_float32", "ours_bfloat16", "nemo_bfloat16"]
    assert "int8: left out, no int8" in capsys.readouterr().err
