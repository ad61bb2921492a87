"""The time that the command adds to the encoder's: the measurement counts what it says it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bench_command
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
    report = tmp_path / "report.json"
    files = [str(path) for path in CLIP_PATHS]
    options = ["--model", "demo", "--output_dir", str(tmp_path), "--chunk_length_s", "2", "--batch_size", "1"]
    bench_command.run_command(report, ["transcribe", *files, *options])

    figures = json.loads(report.read_text(encoding="utf-8"))
    num_passes = figures["encoder_passes"]
    assert num_passes > len(files)
    assert len(shapes) == 2 * num_passes
    assert shapes[:num_passes] == shapes[num_passes:]
    assert figures["encoder_seconds"] > 0
    assert 0 < figures["encoder_busy_seconds"] < figures["ended_at"] - figures["loaded_at"]
    assert len(list(tmp_path.glob("*.txt"))) == len(files)
