"""Outputs of stages come back from a file as they were, and hold the real frames only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from stage_cases import make_outputs

from transformers_fastconformer.nemo.stage_outputs import load_stage_outputs, pad_waveforms, save_stage_outputs


def test_stored_outputs_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "outputs.safetensors"
    save_stage_outputs(path, [make_outputs()], {"nemo": "3.0.0"})
    (loaded,), provenance = load_stage_outputs(path)
    assert provenance == {"nemo": "3.0.0"}
    assert loaded.hypotheses == make_outputs().hypotheses
    assert (loaded.name, loaded.joint_targets) == (make_outputs().name, make_outputs().joint_targets)
    for stage, clips in make_outputs().tensors.items():
        assert all(torch.equal(ours, truth) for ours, truth in zip(loaded.tensors[stage], clips, strict=True))


def test_only_real_frames_are_kept() -> None:
    outputs = make_outputs()
    outputs.keep("block 0", torch.ones(2, 5, 3, dtype=torch.bfloat16), torch.tensor([5, 2]))
    assert [tuple(clip.shape) for clip in outputs.tensors["block 0"]] == [(5, 3), (2, 3)]
    assert {clip.dtype for clip in outputs.tensors["block 0"]} == {torch.float32}


def test_clips_are_padded_with_zeros() -> None:
    padded, lengths = pad_waveforms([np.ones(3, dtype=np.float32), np.ones(1, dtype=np.float32)])
    assert padded.tolist() == [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    assert lengths.tolist() == [3, 1]
