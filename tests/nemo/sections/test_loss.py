"""Durations of TDT."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.config_map import map_config


def test_durations_of_the_decoding_where_the_loss_has_none(nemo_config):
    config = nemo_config("tdt")
    config["decoding"]["durations"] = [0, 1, 2, 3]
    for loss in ({"loss_name": "tdt_pytorch"}, None):
        config["loss"] = loss
        assert map_config(config).config.durations == [0, 1, 2, 3]
    config["decoding"]["durations"] = []
    with pytest.raises(ValueError, match=r"joint\.num_extra_outputs=4 is not supported; expected the number of dur"):
        map_config(config)
