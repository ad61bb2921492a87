"""Sections of self-supervised models: the model that they make, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from families import NEST_SECTIONS, POST_CONV_SECTIONS

from transformers_fastconformer import FastConformerPreTrainingConfig
from transformers_fastconformer.nemo.config_map import map_config

TARGET = "nemo.collections.asr.models.ssl_models.EncDecDenoiseMaskedTokenPredModel"


def make_config(nemo_config: Any, sections: dict[str, Any], **changes: dict[str, Any]) -> dict[str, Any]:
    config = nemo_config("ctc")
    kept = {key: config[key] for key in ("preprocessor", "encoder", "sample_rate")}
    width = config["encoder"]["d_model"]
    found = {"target": TARGET, **kept, **copy.deepcopy(sections)}
    found["decoder"]["feat_in"] = width
    found["quantizer"]["feat_in"] = width if sections is POST_CONV_SECTIONS else 16
    for section, values in changes.items():
        found[section] |= values
    return found


def test_what_it_becomes(nemo_config: Any) -> None:
    changes = {"masking": {"allow_overlap": True, "mask_prob": 0.02}, "loss": {"mask_threshold": 0.7}}
    mapped = map_config(make_config(nemo_config, NEST_SECTIONS, **changes))
    assert mapped.architecture == "FastConformerForPreTraining"
    assert mapped.family == "pretraining"
    config = mapped.config
    assert isinstance(config, FastConformerPreTrainingConfig)
    assert (config.num_codebooks, config.codebook_size, config.codebook_dim, config.frames_per_token) == (1, 32, 4, 8)
    assert (config.mask_probability, config.mask_block_frames, config.mask_overlap) == (0.02, 40, True)
    assert (config.mask_threshold, config.prediction_bias, config.masks_after_subsampling) == (0.7, True, False)
    after = make_config(nemo_config, POST_CONV_SECTIONS, loss={"combine_time_steps": 1}, masking={"block_size": 5})
    del after["target"]
    config = map_config(after).config
    assert (config.masks_after_subsampling, config.frames_per_token, config.mask_block_frames) == (True, 1, 5)
    alone = map_config(after, encoder_only=True)
    assert alone.architecture == "FastConformerModel"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantizer": {"combine_time_steps": 4}, "loss": {"combine_time_steps": 4}},
            "quantizer.combine_time_steps=4",
        ),
        ({"quantizer": {"feat_in": 8}}, r"quantizer.feat_in=8 is not supported; expected 16, as the other"),
        ({"quantizer": {"dist_fn": "dot"}}, "quantizer.dist_fn='dot'"),
        ({"quantizer": {"time_ahead": True}}, "quantizer.time_ahead=True"),
        ({"decoder": {"num_classes": 31}}, "decoder.num_classes=31 is not supported; expected 32"),
        ({"decoder": {"num_decoders": 2}}, "decoder.num_decoders=2"),
        ({"loss": {"combine_time_steps": 4}}, "loss.combine_time_steps=4 is not supported; expected 8"),
        ({"masking": {"_target_": "a.SpeakerNoise"}}, "masking._target_"),
        ({"masking": {"block_size": "x"}}, "masking.block_size='x'"),
    ],
)
def test_what_is_refused(nemo_config: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        map_config(make_config(nemo_config, NEST_SECTIONS, **changes))


def test_other_places_of_masks_are_refused(nemo_config: Any) -> None:
    config = make_config(nemo_config, NEST_SECTIONS) | {"mask_position": "pre_input"}
    with pytest.raises(ValueError, match="mask_position='pre_input' is not supported; expected 'pre_conv' or"):
        map_config(config)
