"""Prediction networks and CTC heads."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.config_map import map_config


def test_stateless_prediction_network(nemo_config):
    config = nemo_config("rnnt")
    config["decoder"] = {
        "_target_": "nemo.collections.asr.modules.StatelessTransducerDecoder",
        "context_size": 3,
        "normalization_mode": "layer",
        "vocab_size": 28,
        "prednet": {"pred_hidden": 12, "dropout": 0.0},
    }
    mapped = map_config(config).config
    assert (mapped.decoder_type, mapped.decoder_context_size, mapped.decoder_layer_norm) == ("stateless", 3, True)


def test_placeholder_number_of_classes_is_the_vocabulary(nemo_config):
    config = nemo_config("ctc")
    config["decoder"]["num_classes"] = -1
    assert map_config(config).config.vocab_size == 29
    config["decoder"]["vocabulary"] = []
    with pytest.raises(ValueError, match=r"decoder\.num_classes=-1 is not supported; expected the number of classes"):
        map_config(config)
