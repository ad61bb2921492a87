"""The CTC head next to a transducer."""

from __future__ import annotations

import re

import pytest

from transformers_fastconformer.nemo.config_map import map_config


def test_options_of_the_loss(nemo_config):
    config = nemo_config("hybrid_rnnt_ctc")
    config["aux_ctc"] |= {"ctc_loss_weight": 0.25, "ctc_reduction": "sum"}
    mapped = map_config(config).config
    assert (mapped.has_ctc_head, mapped.ctc_loss_weight, mapped.ctc_loss_reduction) == (True, 0.25, "sum")


@pytest.mark.parametrize(
    ("key", "value", "default"),
    [
        ("word_seperator", "|", "' '"),
        ("segment_seperators", ["."], "['.', '?', '!']"),
        ("segment_gap_threshold", 4, "None"),
    ],
)
def test_two_rules_for_times_are_refused(nemo_config, key, value, default):
    config = nemo_config("hybrid_tdt_ctc")
    config["aux_ctc"]["decoding"] = {"strategy": "greedy", key: value}
    message = f"aux_ctc.decoding.{key}={value!r} is not supported; expected that of decoding, which is {default}"
    with pytest.raises(ValueError, match=re.escape(message)):
        map_config(config)
    config["decoding"][key] = value
    assert map_config(config).config.has_ctc_head
