"""Published shapes with random weights: the whole contract, and what the conversion costs. Minutes and gigabytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.nemo_shapes import find_archive
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.converted_runner import ConvertedRunner
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.stage_comparison import compare_outputs

pytestmark = [pytest.mark.nemo, pytest.mark.slow]

SHAPES = (
    "parakeet-tdt-0.6b-v2",
    "parakeet-tdt-0.6b-v3",
    "parakeet-tdt_ctc-110m",
    "parakeet-ctc-1.1b",
    "stt_en_fastconformer_hybrid_large_streaming_multi",
)
SECONDS_A_CLIP = 4


@pytest.mark.parametrize("shape", SHAPES)
def test_full_shape_equals_nemo(shape: str, speech_batches: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    archive, folder = find_archive(shape, tmp_path), tmp_path / "converted"
    convert_nemo_checkpoint(archive, folder)
    batches = {
        name: [waveform[: SECONDS_A_CLIP * 16000] for waveform in waveforms]
        for name, waveforms in speech_batches.items()
    }
    nemo = NemoRunner(archive)
    reference = [nemo.run(name, waveforms) for name, waveforms in batches.items()]
    del nemo
    converted = ConvertedRunner(folder)
    ours = [converted.run(outputs.name, batches[outputs.name], outputs.joint_targets) for outputs in reference]
    rows = compare_outputs(reference, ours)
    for row in rows:
        print(f"{shape} {row.stage}: {row.max_difference:.3g} of {row.limit:.3g}")
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]
