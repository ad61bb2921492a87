"""The numerical contract in 16 bits: our error against NeMo in float32 is at most 1.1 times NeMo's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, STATELESS, STREAMING

from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.verify import verify_conversion

pytestmark = pytest.mark.nemo

CTC, JOINT, PROMPTED = "CTC log-probabilities", "joint log-probabilities", "prompted frames"
# What is built, and the stages behind its encoder.
MODELS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "ctc": ("ctc", {}, {CTC}),
    "rnnt": ("rnnt", {}, {JOINT}),
    "tdt": ("tdt", {}, {JOINT}),
    "streaming hybrid": (
        "hybrid_rnnt_ctc",
        {"preprocessor": {"normalize": "NA"}, "encoder": {**STREAMING, "att_context_size": [14, 1]}},
        {JOINT, CTC},
    ),
    "local attention with global tokens": (
        "ctc",
        {
            "encoder": {
                "self_attention_model": "rel_pos_local_attn",
                "att_context_size": [8, 8],
                "global_tokens": 1,
                "global_attn_separate": True,
            }
        },
        {CTC},
    ),
    "plain Conformer": (
        "ctc",
        {"encoder": {"subsampling": "striding", "subsampling_factor": 4, "conv_kernel_size": 31}},
        {CTC},
    ),
    "language prompts": (
        "rnnt",
        {"nemo_class": "EncDecRNNTBPEModelWithPrompt", **PROMPTS},
        {JOINT, PROMPTED},
    ),
    "stateless": ("rnnt", {"decoder": {"_target_": STATELESS, "context_size": 2}}, {JOINT}),
}
NUM_CLIPS = 4
BLANK_DISADVANTAGE = 2.0


def lower_blank(model: Any) -> None:
    """Let a random transducer emit tokens, which the joint network is then compared on."""
    blank = model.joint.num_classes_with_blank - 1 - model.joint.num_extra_outputs
    with torch.no_grad():
        model.joint.joint_net[-1].bias[blank] -= BLANK_DISADVANTAGE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", MODELS)
def test_error_is_at_most_a_tenth_above_nemos_own(
    name: str,
    dtype: str,
    build_nemo_model: Callable[..., Any],
    speech_batches: dict[str, list[np.ndarray]],
    tmp_path: Path,
) -> None:
    kind, options, head_stages = MODELS[name]
    model = build_nemo_model(kind, **options)
    singles = {clip: clips[0] for clip, clips in speech_batches.items() if clip.startswith("read/")}
    if kind != "ctc":
        lower_blank(model)
    archive, folder = tmp_path / "model.nemo", tmp_path / "converted"
    model.save_to(str(archive))
    assert convert_nemo_checkpoint(archive, folder, dtype=dtype).dtype == dtype

    names = list(singles)[:: len(singles) // NUM_CLIPS][:NUM_CLIPS]
    report = verify_conversion(archive, folder, {name: singles[name] for name in names}, dtype=dtype)

    failures = [row for row in report.rows if not row.passed]
    assert not failures, failures
    rows = {row.stage: row for row in report.rows}
    assert {"features", "subsampling", "block 0", "block 1", "encoder"} | head_stages == set(rows)
    assert rows["features"].max_difference == 0
    for stage, row in rows.items():
        if stage != "features":
            # Rounding is there: between equal float32 runs the limit would be 0.
            assert 0 < row.mean_difference < 1
            assert row.limit > torch.finfo(torch.float16).eps / 100
