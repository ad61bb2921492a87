"""The time that the command adds to the encoder's: the measurement counts what it says it does."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import bench_command
from common.csv_files import read_rows
from transformers_fastconformer.cli import transcribe_run
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.modeling.encoder import FastConformerEncoder


def test_the_encoder_goes_again_through_what_it_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    forward = FastConformerEncoder.forward

    def encode(encoder: FastConformerEncoder, input_features, *given, **named):
        shapes.append(input_features.shape)
        return forward(encoder, input_features, *given, **named)

    # What the measurement replaces is put back at the end.
    monkeypatch.setattr(transcribe_run, "load_model", transcribe_run.load_model)
    monkeypatch.setattr(FastConformerEncoder, "forward", encode)
    monkeypatch.setattr(sys, "argv", [])
    report = tmp_path / "report.json"
    files = [str(path) for path in CLIP_PATHS]
    options = ["--model", "demo", "--output_dir", str(tmp_path), "--chunk_length_s", "2", "--batch_size", "1"]
    bench_command.run_command(report, 0, ["transcribe", *files, *options])

    figures = json.loads(report.read_text(encoding="utf-8"))
    num_passes = figures["encoder_passes"]
    assert num_passes > len(files)
    assert len(shapes) == 2 * num_passes
    assert Counter(shapes[:num_passes]) == Counter(shapes[num_passes:])
    loaded, ended, encoder = (bench_command.Usage(*figures[name]) for name in ("loaded", "ended", "encoder"))
    assert encoder.wall_seconds > 0
    assert encoder.user_seconds > 0
    work = bench_command.subtract(ended, loaded)
    assert work.wall_seconds > 0
    assert work.minor_faults > 0
    assert figures["whole_seconds"] > work.wall_seconds
    assert figures["peak_bytes"] >= figures["loaded_bytes"] > 0
    assert len(list(tmp_path.glob("*.txt"))) == len(files)


def test_some_passes_of_a_shape_stand_for_all() -> None:
    seen: list[int] = []

    def encode(encoder: Any, features: torch.Tensor, input_lengths: torch.Tensor) -> None:
        seen.append(features.shape[1])

    encoder = SimpleNamespace(dtype=torch.float32)
    calls = [
        bench_command.EncoderCall(encoder, torch.Size((1, length, 2)), (torch.tensor([length]),), {})
        for length in (8, 8, 8, 5)
    ]
    assert len(bench_command.replay(calls, encode, 0)) == len(bench_command.Usage._fields)
    assert sorted(seen) == [5, 8, 8, 8]
    seen.clear()
    bench_command.replay(calls, encode, 2)
    assert sorted(seen) == [5, 8, 8]


def test_a_row_has_the_shortest_of_all_rounds() -> None:
    runs = [
        {
            "work_seconds": work, "encoder_seconds": encoder, "whole_seconds": 9.0, "work_cpu_seconds": 4.0,
            "encoder_cpu_seconds": 2.0, "system_percent": system, "minor_faults": faults,
        }
        for work, encoder, system, faults in ((3.0, 2.0, 4.0, 600), (2.5, 2.5, 3.0, 300))
    ]  # fmt: skip
    row = bench_command.join_rounds(runs, 30.0)
    assert (row["ratio"], row["cpu_ratio"], row["system_percent"], row["faults_a_second"]) == (1.25, 2.0, 3.0, 10.0)


def test_rows_of_other_cases_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    bench_command.write_results(path, [{"side": "now", "case": "30min", "ratio": 1}])
    bench_command.write_results(path, [{"side": side, "case": "30s", "ratio": 2} for side in ("now", "before")])
    bench_command.write_results(path, [{"side": "now", "case": "30s", "ratio": 3}])
    found = [(row["case"], row["side"], row["ratio"]) for row in read_rows(path)]
    assert found == [("30s", "before", "2"), ("30s", "now", "3"), ("30min", "now", "1")]


def test_many_files_are_cut_from_one_recording(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
    waveform = np.linspace(-0.5, 0.5, 40 * 16000, dtype=np.float32)
    folder, seconds = bench_command.write_files(waveform, tmp_path / "files", 5)
    lengths = [soundfile.info(path).duration for path in sorted(folder.iterdir())]
    assert len(lengths) == 5
    assert sum(lengths) == pytest.approx(seconds)
    assert all(2.0 <= length <= 30.0 for length in lengths)
