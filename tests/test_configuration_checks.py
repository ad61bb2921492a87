"""Values of an encoder's configuration that are refused, and with which words."""

from __future__ import annotations

import pytest

from transformers_fastconformer import FastConformerConfig

REFUSED = [
    ({"num_mel_bins": 0}, "num_mel_bins=0 is not supported; expected a positive integer"),
    ({"hidden_size": 0}, "hidden_size=0"),
    ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
    ({"num_attention_heads": 7}, "expected a divisor of hidden_size=512"),
    ({"hidden_act": "swoosh"}, "hidden_act='swoosh'"),
    ({"subsampling_type": "vggnet"}, "subsampling_type='vggnet'"),
    ({"subsampling_factor": 6}, "subsampling_factor=6 is not supported; expected a power of 2"),
    ({"subsampling_type": "stacking", "subsampling_factor": 0}, "subsampling_factor=0"),
    ({"subsampling_conv_kernel_size": 5}, "subsampling_conv_kernel_size=5"),
    ({"subsampling_conv_stride": 3}, "subsampling_conv_stride=3"),
    ({"reduction_type": "average"}, "reduction_type='average'"),
    ({"reduction_type": "pooling", "reduction_factor": 3}, "reduction_factor=3"),
    ({"reduction_type": "pooling", "reduction_factor": 2}, "reduction_position=None"),
    (
        {"reduction_type": "pooling", "reduction_factor": 2, "reduction_position": 17},
        "reduction_position=17 is not supported; expected -1 to 16",
    ),
    ({"position_embedding_type": "rotary"}, "position_embedding_type='rotary'"),
    ({"attention_context_style": "sliding"}, "attention_context_style='sliding'"),
    ({"attention_context": [4]}, "attention_context="),
    ({"attention_context": [4, -2]}, "attention_context="),
    (
        {"attention_context": [5, 1], "attention_context_style": "chunked_limited"},
        "a multiple of the chunk",
    ),
    (
        {"attention_context": [4, 2], "attention_context_style": "chunked_limited_with_rc"},
        r"\[left, chunk, right\]",
    ),
    ({"position_embedding_type": "rel_pos_local_attn"}, "limits on both sides"),
    ({"conv_kernel_size": 8}, "conv_kernel_size=8 is not supported; expected an odd number"),
    ({"conv_norm_type": "rms_norm"}, "conv_norm_type='rms_norm'"),
    ({"conv_norm_type": "group_norm"}, "conv_norm_groups=None"),
    ({"conv_norm_type": "group_norm", "conv_norm_groups": 5}, "conv_norm_groups=5"),
    ({"conv_context": [8, 1]}, "sum up to conv_kernel_size - 1 = 8"),
    ({"layerdrop": 1.0}, "layerdrop=1.0"),
    ({"layerdrop": 0.1, "layerdrop_mode": "cosine"}, "layerdrop_mode='cosine'"),
    ({"layerdrop": 0.1, "layerdrop_start_layer": 0}, "layerdrop_start_layer=0"),
    ({"layerdrop": 0.1, "layerdrop_start_layer": 18}, "expected 1 to num_hidden_layers=17"),
    ({"dropout": 10**400}, "dropout=.* a probability"),
    ({"dropout": float("nan")}, "dropout=nan .* a probability"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_refuses_by_name_and_value(values, message):
    with pytest.raises(ValueError, match=message):
        FastConformerConfig(**values)
