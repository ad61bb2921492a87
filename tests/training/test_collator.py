"""A batch is what the processor makes of the same clips and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer import FastConformerDataCollator, FastConformerProcessor, RowForm, open_clips


def test_features_and_labels_of_a_batch(
    processor: FastConformerProcessor, rows: list[dict[str, Any]], waveforms: list[np.ndarray]
) -> None:
    batch = FastConformerDataCollator(processor)(rows[:3])
    assert set(batch) == {"input_features", "attention_mask", "input_lengths", "labels"}
    features = processor(waveforms[:3], sampling_rate=16000, return_tensors="pt")
    for name in features:
        assert torch.equal(batch[name], features[name])
    ids = [processor.tokenizer(row["text"])["input_ids"] for row in rows[:3]]
    longest = max(map(len, ids))
    assert batch["labels"].tolist() == [row + [-100] * (longest - len(row)) for row in ids]


def test_lines_of_a_manifest_are_the_same_clips(
    processor: FastConformerProcessor, rows: list[dict[str, Any]], manifest: Path
) -> None:
    collate = FastConformerDataCollator(processor)
    from_files, from_arrays = collate(open_clips(manifest, RowForm())), collate(rows)
    assert torch.equal(from_files["labels"], from_arrays["labels"])
    # Files of 16 bits round the samples, and most where it is quiet.
    assert (from_files["input_features"] - from_arrays["input_features"]).abs().mean() < 0.05


def test_columns_of_other_names(processor: FastConformerProcessor, rows: list[dict[str, Any]]) -> None:
    others = [{"clip": row["audio"], "sentence": row["text"]} for row in rows[:2]]
    found = FastConformerDataCollator(processor, "clip", "sentence")(others)
    assert torch.equal(found["labels"], FastConformerDataCollator(processor)(rows[:2])["labels"])
    with pytest.raises(ValueError, match="audio_column='audio' is not in a row with"):
        FastConformerDataCollator(processor)(others)
