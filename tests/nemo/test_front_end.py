"""Filterbank and window of an archive; conversions with them are in `test_convert.py`."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.front_end import build_feature_extractor
from transformers_fastconformer.nemo.weight_map import FILTERBANK, WINDOW


@pytest.fixture
def mapped(nemo_config):
    return map_config(nemo_config("ctc"))


@pytest.fixture
def stored(nemo_config, nemo_state_dict):
    tensors = nemo_state_dict(nemo_config("ctc"))
    return {name: tensors[name] for name in (FILTERBANK, WINDOW)}


def test_what_the_configuration_gives_is_computed(mapped, stored):
    for tensors in ({}, stored, {FILTERBANK: stored[FILTERBANK][0]}):
        extractor = build_feature_extractor(mapped, tensors, "some.nemo")
        assert (extractor.filterbank_dtype, extractor.mel_filters) == ("float32", None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_constants_are_computed_and_rounded(mapped, stored, dtype):
    rounded = {name: tensor.to(dtype) for name, tensor in stored.items()}
    extractor = build_feature_extractor(mapped, rounded, "some.nemo")
    assert extractor.filterbank_dtype == str(dtype).removeprefix("torch.")
    assert extractor.mel_filters is None


def test_other_constants_are_kept(mapped, stored):
    extractor = build_feature_extractor(mapped, {**stored, WINDOW: stored[WINDOW] * 2}, "some.nemo")
    assert torch.equal(torch.as_tensor(extractor.window_values), stored[WINDOW] * 2)
    assert torch.equal(torch.as_tensor(extractor.mel_filters), stored[FILTERBANK][0])


def test_constants_of_another_shape_are_refused(mapped, stored):
    with pytest.raises(
        ValueError, match=r"some\.nemo: preprocessor\.featurizer\.window is \(399,\); expected \(400,\)"
    ):
        build_feature_extractor(mapped, {WINDOW: stored[WINDOW][1:]}, "some.nemo")


def test_a_few_bytes_that_say_they_are_large_are_refused_before_they_are_cast(mapped):
    filterbank = torch.zeros(1, dtype=torch.float16).expand(10**7, 10**6)  # 20 TB in float16
    with pytest.raises(ValueError, match=r"filterbank|fb is \(10000000, 1000000\); expected \(16, 257\)"):
        build_feature_extractor(mapped, {FILTERBANK: filterbank}, "some.nemo")
