"""Outputs of a made-up checkpoint, for tests of their comparison."""

from __future__ import annotations

import torch

from transformers_fastconformer.nemo.stage_outputs import (
    ClipHypothesis,
    StageOutputs,
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
