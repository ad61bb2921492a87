"""The sections of a Sortformer: NeMo's keys for every option, read back as they were."""

from __future__ import annotations

from transformers_fastconformer import FastConformerDiarizationConfig, FastConformerFeatureExtractor
from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.config_writer import ModelParts, build_nemo_config


def test_options_are_read_back_as_they_were() -> None:
    options = {
        "num_mel_bins": 80,
        "num_speakers": 3,
        "transformer_hidden_size": 24,
        "num_transformer_encoder_layers": 2,
        "num_transformer_encoder_attention_heads": 3,
        "transformer_encoder_intermediate_size": 40,
        "transformer_encoder_activation": "gelu",
        "transformer_encoder_pre_norm": True,
        "speaker_dropout": 0.25,
        "chunk_frames": 7,
        "queue_frames": 9,
        "update_frames": 6,
        "cache_frames": 21,
        "right_context_frames": 2,
        "cache_latest_score": 0.125,
        "cache_min_probability": 0.5,
    }
    for is_streaming, scaling in ((True, None), (False, 0.01)):
        config = FastConformerDiarizationConfig(**options, is_streaming=is_streaming)
        extractor = FastConformerFeatureExtractor(feature_size=80, normalize=None, peak_scaling=scaling)
        written = build_nemo_config(ModelParts(config, extractor, (), None))
        assert written["target"].endswith("SortformerEncLabelModel")
        assert written["sortformer_modules"]["spkcache_len"] == 21
        assert written.get("eps") == scaling
        assert "tokenizer" not in written
        mapped = map_config(written)
        assert {name: getattr(mapped.config, name) for name in options} == options
        assert mapped.config.is_streaming == is_streaming
        assert mapped.feature_extractor_arguments.get("peak_scaling") == scaling
