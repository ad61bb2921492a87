"""The joint network."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.config_map import map_config


@pytest.mark.parametrize("dropout", [0.0, None, 0.3])
def test_options(nemo_config, dropout):
    config = nemo_config("rnnt")
    config["joint"]["jointnet"] |= {"joint_hidden": 24, "activation": "tanh", "dropout": dropout}
    mapped = map_config(config).config
    assert (mapped.joint_hidden_size, mapped.joint_activation, mapped.joint_dropout) == (24, "tanh", dropout or 0.0)


@pytest.mark.parametrize("key", ["joint_hidden", "activation"])
def test_what_has_no_default_must_be_there(nemo_config, key):
    config = nemo_config("rnnt")
    del config["joint"]["jointnet"][key]
    with pytest.raises(ValueError, match=rf"joint\.jointnet\.{key}=\(absent\) is not supported; expected a value"):
        map_config(config)
