"""Options of greedy search."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.sections.decoding import UNLIMITED_SYMBOLS


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


@pytest.mark.parametrize("kind", ["rnnt", "tdt", "hybrid_tdt_ctc"])
@pytest.mark.parametrize("strategy", ["greedy", "greedy_batch", None])
def test_the_strategy_is_kept(nemo_config, kind, strategy):
    """That of the transducer, whatever the CTC head of a hybrid has."""
    config = nemo_config(kind)
    config["decoding"] = {"greedy": {"max_symbols": 3}} | ({} if strategy is None else {"strategy": strategy})
    if "aux_ctc" in config:
        config["aux_ctc"]["decoding"] = {"strategy": "greedy" if strategy == "greedy_batch" else "greedy_batch"}
    mapped = map_config(config).config
    assert mapped.decoding_strategy == (strategy or "greedy_batch")
    assert mapped.max_symbols_per_step == 3


@pytest.mark.parametrize("greedy", [{}, None, {"max_symbols": None, "max_symbols_per_step": None}])
def test_greedy_without_a_number_is_as_good_as_unlimited(nemo_config, greedy):
    config = nemo_config("tdt")
    config["decoding"] = {"strategy": "greedy", "greedy": greedy}
    assert map_config(config).config.max_symbols_per_step == UNLIMITED_SYMBOLS
