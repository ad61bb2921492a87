"""`fastconformer convert --verify` with NeMo beside it: what it prints, writes, uploads, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from transformers_fastconformer import AutoModelForTDT
from transformers_fastconformer.checkpoints.model_card import NOT_VERIFIED
from transformers_fastconformer.cli import convert as convert_command
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.nemo.convert import ConversionResult, convert_nemo_checkpoint

pytestmark = pytest.mark.nemo

SCRIPT = Path(__file__).resolve().parents[2] / "conversion" / "convert_nemo_fastconformer_to_hf.py"
REPOSITORY = "someone/digits"
STAGES = ("features", "subsampling", "block 0", "encoder", "CTC log-probabilities", "joint log-probabilities")
EXACT_STAGES = ("tdt: tokens", "tdt: durations", "tdt: timestamps", "tdt: text", "ctc: tokens", "ctc: text")


@pytest.fixture(autouse=True)
def _nemo() -> None:
    pytest.importorskip("nemo.collections.asr", reason="needs NeMo")


class FakeHub:
    """Takes the place of `huggingface_hub.HfApi` and keeps what is sent."""

    calls: list[str]
    files: dict[str, bytes]

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        pass

    def create_repo(self, repo_id: str, **_options: Any) -> None:
        self.calls.append(f"create {repo_id}")

    def upload_folder(self, *, repo_id: str, folder_path: str | Path, **_options: Any) -> None:
        self.calls.append(f"upload {repo_id}")
        self.files.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setattr(FakeHub, "calls", [], raising=False)
    monkeypatch.setattr(FakeHub, "files", {}, raising=False)
    monkeypatch.setattr("transformers_fastconformer.cli.convert.HfApi", FakeHub)
    return FakeHub


def read_report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "verification.json").read_text(encoding="utf-8"))


def test_a_true_conversion_passes(run_command: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    result = run_command(
        "convert", "--model", str(CHECKPOINT_PATH), "--output_dir", str(folder), "--verify", folder=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr

    report = read_report(folder)
    assert report["passed"] is True
    assert report["reference"].startswith("NeMo 3.")
    assert (report["dtype"], report["device"]) == ("float32", "cpu")
    stages = [row["stage"] for row in report["rows"]]
    assert {*STAGES, *EXACT_STAGES} <= set(stages)
    assert all(row["passed"] for row in report["rows"])

    card = (folder / "README.md").read_text(encoding="utf-8")
    assert NOT_VERIFIED not in card
    for stage in stages:
        assert f" {stage} " in result.stdout, stage  # a row of the printed table
        assert f"\n| {stage} |" in card
    assert f"All {len(stages)} stages agree." in result.stdout
    assert "FAIL" not in result.stdout + card
    AutoModelForTDT.from_pretrained(folder)  # what was written beside the weights does not disturb


@pytest.fixture
def spoiled_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that gets one number of one weight wrong."""

    def convert(*arguments: Any, **options: Any) -> ConversionResult:
        result = convert_nemo_checkpoint(*arguments, **options)
        path = result.output_dir / "model.safetensors"
        weights = load_file(path)
        name = next(name for name in weights if name.endswith("encoder.layers.1.feed_forward1.linear1.weight"))
        weights[name][3, 5] += 0.01
        save_file(weights, path, metadata={"format": "pt"})
        return result

    monkeypatch.setattr(convert_command, "convert_nemo_checkpoint", convert)


@pytest.mark.usefixtures("spoiled_conversion")
def test_a_wrong_weight_fails_and_is_not_uploaded(
    run_command: Callable[..., Any], hub: type[FakeHub], tmp_path: Path
) -> None:
    folder = tmp_path / "digits"
    result = run_command("convert", "--output_dir", str(folder), "--verify", "--push_to_hub", REPOSITORY)
    assert result.returncode == 1
    assert "FAIL" in result.stdout
    assert "stages differ" in result.stdout
    assert "Uploaded" not in result.stdout
    assert "Traceback" not in result.stderr
    assert not hub.calls

    report = read_report(folder)
    assert report["passed"] is False
    passed = {row["stage"]: row["passed"] for row in report["rows"]}
    assert passed["features"]
    assert passed["subsampling"]
    assert passed["block 0"]
    assert not passed["block 1"]
    assert not passed["encoder"]
    assert "**FAIL**" in (folder / "README.md").read_text(encoding="utf-8")


def test_what_passed_is_uploaded(run_command: Callable[..., Any], hub: type[FakeHub], tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    result = run_command("convert", "--output_dir", str(folder), "--verify", "--push_to_hub", REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Uploaded to {REPOSITORY}." in result.stdout
    assert hub.calls == [f"create {REPOSITORY}", f"upload {REPOSITORY}"]
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "verification.json"} <= set(hub.files)


def test_the_script_verifies_the_demonstration_checkpoint(tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--verify"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "stages agree." in result.stdout
    for stage in EXACT_STAGES:
        assert f" {stage} " in result.stdout
    assert list(tmp_path.iterdir()) == []
