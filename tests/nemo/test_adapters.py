"""Adapters: what is left out, and what is refused by its name."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.adapters import adapter_rows, check_adapters
from transformers_fastconformer.nemo.config_map import map_config

LINEAR = {"_target_": "nemo.collections.common.parts.adapter_modules.LinearAdapter", "in_features": 16, "dim": 4}


@pytest.mark.parametrize("section", [None, {}, {"global_cfg": {"check_encoder_adapter": True}}])
def test_no_adapters(section):
    assert check_adapters(section, "some.nemo") == frozenset()


@pytest.mark.parametrize("encoder_only", [False, True])
def test_an_adapter_in_use_is_refused_by_name(nemo_config, encoder_only):
    config = nemo_config("tdt") | {"adapters": {"global_cfg": {}, "accent": {**LINEAR, "enabled": True}}}
    expected = r"adapters.accent \(LinearAdapter\) is in use and not supported.*set_enabled_adapters.*some.nemo"
    with pytest.raises(ValueError, match=expected):
        map_config(config, "some.nemo", encoder_only=encoder_only)
    del config["adapters"]["accent"]["enabled"]  # NeMo takes it for enabled
    with pytest.raises(ValueError, match=r"adapters.accent"):
        map_config(config, encoder_only=encoder_only)


def test_an_adapter_that_is_off_is_reported(nemo_config):
    config = nemo_config("tdt") | {"adapters": {"decoder:accent": {**LINEAR, "enabled": False}}}
    mapped = map_config(config)
    assert mapped.dropped["adapters.accent"] == "an adapter that is switched off"
    assert mapped.adapters_off == {"accent"}


@pytest.mark.parametrize(
    ("nemo_name", "adapter"),
    [
        ("encoder.layers.1.adapter_layer.accent.module.0.weight", "accent"),
        ("encoder.layers.1.self_attn.adapter_layer.accent.module.0.weight", "accent"),
        ("decoder.adapter_layer.noise.module.1.weight", "noise"),
        ("joint.adapter_layer.noise.module.1.weight", "noise"),
        ("encoder.layers.1.self_attn.linear_q.weight", None),
    ],
)
def test_names_of_tensors(nemo_name, adapter):
    rows = {name: adapter_rows([name]) for name in ("accent", "noise", "acc")}
    found = [name for name, (row,) in rows.items() if row.their_pattern.fullmatch(nemo_name)]
    assert found == ([] if adapter is None else [adapter])


def test_a_section_is_expected():
    with pytest.raises(ValueError, match=r"adapters=\['a'\] is not supported; expected a section"):
        check_adapters(["a"], "some.nemo")
