"""Kernels of multi-talker models."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.sections.speaker_kernels import kernel_layers


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"spk_kernel_layers": [0, 1]}, (True, [1], True)),
        ({"spk_kernel_layers": [0], "add_bg_spk_kernel": False}, (True, [], False)),
        ({"spk_kernel_layers": [2, 1]}, (False, [1, 2], True)),
        ({}, (False, [], False)),
    ],
)
@pytest.mark.parametrize("encoder_only", [False, True])
def test_speaker_kernels(nemo_config, options, expected, encoder_only):
    config = nemo_config("rnnt") | {"target": "a.EncDecMultiTalkerRNNTBPEModel", "spk_kernel_type": "ff", **options}
    mapped = map_config(config, encoder_only=encoder_only).config
    assert (mapped.has_speaker_kernel, mapped.later_speaker_kernels, mapped.has_background_kernel) == expected
    assert set(kernel_layers(mapped)) == set(options.get("spk_kernel_layers", []))
    with pytest.raises(ValueError, match=r"spk_kernel_layers=\[0, 9\] is not supported; expected numbers of blocks"):
        map_config(config | {"spk_kernel_layers": [0, 9]}, encoder_only=encoder_only)
    if options.get("spk_kernel_layers"):
        with pytest.raises(ValueError, match=r"spk_kernel_layers=.* expected those of the weights, \[7\]"):
            map_config(config, tensor_names=["spk_kernels.7.0.weight"], encoder_only=encoder_only)
    config |= {"spk_kernel_type": "mha", "spk_kernel_layers": [0]}
    with pytest.raises(ValueError, match="spk_kernel_type='mha' is not supported; expected 'ff'"):
        map_config(config, encoder_only=encoder_only)
