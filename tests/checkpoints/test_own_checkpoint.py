"""Checkpoints of this package, opened without their weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from transformers_fastconformer import FastConformerConfig, FastConformerModel
from transformers_fastconformer.checkpoints.own_checkpoint import open_our_checkpoint, stored_names

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def test_a_folder_and_tied_tensors(tmp_path: Path) -> None:
    config = FastConformerConfig(**SMALL, subsampling_conv_channels=8, tie_position_biases=True)
    FastConformerModel(config).save_pretrained(tmp_path)
    ours = open_our_checkpoint(tmp_path)
    assert (ours.folder, ours.processor, ours.config.num_hidden_layers) == (tmp_path, None, 2)
    names = stored_names(ours.config, ours.tensors.shapes)
    assert names["encoder.layers.1.self_attn.bias_u"] in ours.tensors.shapes


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        open_our_checkpoint(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type='bert' is not supported"):
        open_our_checkpoint(tmp_path)
