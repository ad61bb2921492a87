"""Options of greedy search."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.config_map import map_config


@pytest.mark.parametrize(
    ("greedy", "expected"),
    [
        ({"max_symbols": 3}, 3),
        ({"max_symbols_per_step": 4}, 4),
        ({"max_symbols": 3, "max_symbols_per_step": 4}, 3),
        ({"max_symbols": None, "max_symbols_per_step": 4}, 4),
        ({}, 10),
        (None, 10),
    ],
)
def test_most_symbols(nemo_config, greedy, expected):
    config = nemo_config("rnnt")
    config["decoding"]["greedy"] = greedy
    assert map_config(config).config.max_symbols_per_step == expected
    if greedy is None:
        del config["decoding"]
        assert map_config(config).config.max_symbols_per_step == expected
