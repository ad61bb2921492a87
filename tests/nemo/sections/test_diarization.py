"""Sortformer's sections: the model that they make, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from sortformer_archives import make_sortformer_config

from transformers_fastconformer import FastConformerDiarizationConfig
from transformers_fastconformer.nemo.config_map import map_config


def test_what_it_becomes() -> None:
    modules = {
        "num_spks": 3, "spkcache_len": 60, "fifo_len": 7, "chunk_len": 5, "spkcache_update_period": 9,
        "chunk_left_context": 2, "chunk_right_context": 4, "spkcache_sil_frames_per_spk": 2, "sil_threshold": 0.3,
        "dropout_rate": 0.2, "strong_boost_rate": 0.5, "causal_attn_rate": 0.5, "scores_add_rnd": 2,
    }  # fmt: skip
    mapped = map_config(make_sortformer_config(pil_weight=0.5, sortformer_modules=modules, max_num_of_spks=3))
    assert mapped.architecture == "FastConformerForDiarization"
    assert mapped.family == "diarization"
    config = mapped.config
    assert isinstance(config, FastConformerDiarizationConfig)
    assert (config.num_speakers, config.transformer_hidden_size, config.is_streaming) == (3, 24, True)
    assert config.speaker_stream() == {
        "chunk_frames": 5, "left_context_frames": 2, "right_context_frames": 4, "queue_frames": 7,
        "update_frames": 9, "cache_frames": 60,
    }  # fmt: skip
    assert (config.cache_silence_threshold, config.cache_strong_share, config.speaker_dropout) == (0.3, 0.5, 0.2)
    assert {"loss", "pil_weight", "sortformer_modules.causal_attn_rate"} <= set(mapped.dropped)
    assert mapped.feature_extractor_arguments.get("peak_scaling") is None


def test_an_archive_without_a_class() -> None:
    config = make_sortformer_config()
    del config["target"]
    assert map_config(config).family == "diarization"
    assert map_config(config, encoder_only=True).family == "encoder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_of_spks": 5}, r"max_num_of_spks=5 .*sortformer_modules\.num_spks, which is 4"),
        ({"model_defaults": {"fc_d_model": 7, "tf_d_model": 24}}, r"model_defaults\.fc_d_model=7"),
        ({"model_defaults": {"fc_d_model": 32, "tf_d_model": 25}}, r"model_defaults\.(tf_d_model=25|fc_d_model=32)"),
        ({"sortformer_modules": {"subsampling_factor": 4}}, r"sortformer_modules\.subsampling_factor=4"),
        ({"sortformer_modules": {"spkcache_len": 3}}, "cache_frames=3"),
        ({"sortformer_modules": {"new_option": 3}}, "new_option"),
        ({"transformer_encoder": None}, "transformer_encoder"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        map_config(make_sortformer_config(**options))
