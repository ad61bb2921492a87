"""Our configuration as NeMo's: every option that NeMo has a key for is read back as it was written."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer.configuration_fastconformer import FastConformerTDTConfig
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.config_writer import ModelParts, build_nemo_config
from transformers_fastconformer.nemo.tokenizers import character_tokenizer
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

TOKENS = ["a", "b", "c"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stateless": {"decoder_type": "stateless", "decoder_context_size": 2, "decoder_layer_norm": True},
    "streaming": {
        "attention_context": [8, 1],
        "attention_contexts": [[8, 3], [8, 1]],
        "attention_context_style": "chunked_limited",
        "conv_context": [8, 0],
        "causal_downsampling": True,
        "conv_norm_type": "layer_norm",
    },
    "local": {"position_embedding_type": "rel_pos_local_attn", "attention_context": [4, 4], "num_global_tokens": 1},
    "reduced": {"reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 2},
    "groups": {"conv_norm_type": "group_norm", "conv_norm_groups": 4, "tie_position_biases": True},
    "training": {"layerdrop": 0.1, "layerdrop_mode": "uniform", "dropout_positions": 0.3, "sigma": 0.5, "omega": 0.2},
    "no front": {"subsampling_type": "none", "subsampling_factor": 1, "encoder_output_size": 24},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_read_back(name: str) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = FastConformerTDTConfig(**small, vocab_size=4, has_ctc_head=True, durations=[0, 2], **OPTIONS[name])
    extractor = FastConformerFeatureExtractor(hop_length=161, normalize=None, max_frequency=7000.0)
    processor = FastConformerProcessor(extractor, character_tokenizer(TOKENS), segment_gap_frames=5)
    written = build_nemo_config(ModelParts(config, processor, TOKENS, None), {"optim": {"name": "sgd"}})
    mapped = map_config(written)
    assert written["optim"] == {"name": "sgd"}
    assert written["decoding"]["segment_gap_threshold"] == written["aux_ctc"]["decoding"]["segment_gap_threshold"] == 5
    for option in [*small, *OPTIONS[name], "durations", "joint_dropout", "vocab_size", "has_ctc_head"]:
        expected, found = getattr(config, option), getattr(mapped.config, option)
        if option == "attention_contexts":
            assert found[0] == config.attention_context, "NeMo takes the first"
            expected, found = sorted(expected), sorted(found)
        assert found == expected, option
    for option, value in mapped.feature_extractor_arguments.items():
        assert getattr(extractor, option) == value, option
