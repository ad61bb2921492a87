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


def gradient_options(config):
    mapped = map_config(config).config
    return mapped.fastemit_lambda, mapped.transducer_gradient_clamp


def test_options_are_those_of_the_loss_in_use(nemo_config):
    config = nemo_config("rnnt")
    options = {"fastemit_lambda": 0.005, "clamp": 2.0}
    config["loss"] = {"loss_name": "default", "warprnnt_numba_kwargs": options}
    assert gradient_options(config) == (0.005, 2.0)
    config["loss"] = {"warprnnt_numba_kwargs": {"fastemit_lambda": "1e-3", "clamp": -1.0}}
    assert gradient_options(config) == (0.001, 0.0)
    config["loss"] = {"loss_name": "default", "tdt_kwargs": options, "default_kwargs": options}
    assert gradient_options(config) == (0.0, 0.0)
    config["loss"] = {"loss_name": "pytorch", "warprnnt_numba_kwargs": options, "pytorch_kwargs": options}
    assert gradient_options(config) == (0.0, 0.0)
    assert map_config(config).dropped["loss.pytorch_kwargs.clamp"] == "not read by this loss of NeMo"
    config = nemo_config("tdt")
    config["loss"]["tdt_kwargs"] |= options | {"omega": 0.1}
    assert gradient_options(config) == (0.005, 2.0)
    assert map_config(config).config.omega == 0.1
    config["loss"]["tdt_kwargs"]["clamp"] = "much"
    with pytest.raises(ValueError, match=r"loss\.tdt_kwargs\.clamp='much' is not supported; expected a number"):
        map_config(config)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mean_batch", "mean"),
        ("mean", "mean_per_token"),
        ("mean_volume", "mean_volume"),
        ("sum", "sum"),
        ("none", "mean"),
        (None, "mean"),
    ],
)
def test_reductions(theirs, ours, nemo_config):
    assert map_config(nemo_config("ctc") | {"ctc_reduction": theirs}).config.ctc_loss_reduction == ours
    config = nemo_config("hybrid_tdt_ctc") | {"rnnt_reduction": theirs}
    config["aux_ctc"]["ctc_reduction"] = theirs
    mapped = map_config(config).config
    assert mapped.transducer_loss_reduction == mapped.ctc_loss_reduction == ours


def test_another_reduction_is_refused(nemo_config):
    with pytest.raises(ValueError, match="rnnt_reduction='median' is not supported"):
        map_config(nemo_config("rnnt") | {"rnnt_reduction": "median"})
