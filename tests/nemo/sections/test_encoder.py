"""Options of the encoder."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.config_map import map_config


def mapped_encoder(nemo_config, **options):
    config = nemo_config("ctc")
    config["encoder"] |= options
    return map_config(config).config


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"xscaling": False}, {"scale_input": False}),
        ({"use_bias": False}, {"attention_bias": False, "convolution_bias": False}),
        ({"feat_out": 24}, {"encoder_output_size": 24}),
        ({"feat_out": 16}, {"encoder_output_size": None}),
        ({"ff_expansion_factor": 2}, {"intermediate_size": 32}),
        ({"subsampling_conv_channels": -1}, {"subsampling_conv_channels": 16}),
        ({"subsampling_factor": 4}, {"subsampling_factor": 4}),
        ({"causal_downsampling": True}, {"causal_downsampling": True}),
        ({"subsampling": "stacking", "causal_downsampling": True}, {"causal_downsampling": False}),
        ({"subsampling": "stacking_norm", "subsampling_factor": 3}, {"subsampling_type": "stacking_norm"}),
        ({"subsampling": None}, {"subsampling_type": "none", "subsampling_factor": 1}),
        ({"subsampling": "vggnet", "subsampling_factor": 1}, {"subsampling_type": "none", "subsampling_factor": 1}),
        (
            {"reduction": "pooling", "reduction_position": 0, "reduction_factor": 2},
            {"reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 2},
        ),
        ({"reduction": "striding", "reduction_position": 0, "reduction_factor": 1}, {"reduction_type": None}),
        ({"reduction": None, "reduction_position": None, "reduction_factor": 2}, {"reduction_factor": 1}),
        ({"untie_biases": False}, {"tie_position_biases": True}),
        ({"untie_biases": False, "self_attention_model": "abs_pos"}, {"tie_position_biases": False}),
        (
            {"self_attention_model": "rel_pos_local_attn", "att_context_size": [64, 32], "global_tokens": 1},
            {
                "position_embedding_type": "rel_pos_local_attn",
                "attention_context": [64, 32],
                "num_global_tokens": 1,
            },
        ),
        ({"att_context_size": [70, 13]}, {"attention_context": [70, 13], "attention_contexts": None}),
        (
            {"att_context_style": "chunked_limited", "att_context_size": [[70, 13], [70, 0]]},
            {"attention_context": [70, 13], "attention_contexts": [[70, 13], [70, 0]]},
        ),
        (
            {"att_context_style": "chunked_limited_with_rc", "att_context_size": [[70, 13]]},
            {"attention_context": [-1, -1, -1], "attention_contexts": None},
        ),
        ({"conv_norm_type": "layer_norm"}, {"conv_norm_type": "layer_norm", "conv_norm_groups": None}),
        ({"conv_norm_type": "group_norm4"}, {"conv_norm_type": "group_norm", "conv_norm_groups": 4}),
        ({"conv_context_size": "causal"}, {"conv_context": [4, 0]}),
        ({"conv_context_size": [3, 1]}, {"conv_context": [3, 1]}),
        ({"dropout": 0.3}, {"dropout": 0.3, "activation_dropout": 0.3}),
        ({"dropout_emb": 0.2, "dropout_att": 0.4}, {"dropout_positions": 0.2, "attention_dropout": 0.4}),
        (
            {"stochastic_depth_drop_prob": 0.2, "stochastic_depth_mode": "uniform", "stochastic_depth_start_layer": 2},
            {"layerdrop": 0.2, "layerdrop_mode": "uniform", "layerdrop_start_layer": 2},
        ),
    ],
)
def test_encoder_options(nemo_config, options, expected):
    config = mapped_encoder(nemo_config, **options)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling_conv_chunking_factor": 4},
        {"conv_context_style": "dcc"},
        {"use_pytorch_sdpa": True, "use_pytorch_sdpa_backends": ["MATH"]},
        {"sync_max_audio_length": False},
        {"pos_emb_max_len": 100},
        {"att_context_probs": [1.0]},
    ],
)
def test_options_without_influence_never_stop_a_conversion(nemo_config, options):
    assert mapped_encoder(nemo_config, **options) == mapped_encoder(nemo_config)


def test_chances_of_contexts(nemo_config):
    config = nemo_config("ctc")
    config["encoder"] |= {"att_context_size": [[8, 1], [8, 3]], "att_context_probs": [0.75, 0.25]}
    assert map_config(config).config.attention_context_probabilities == [0.75, 0.25]
    config["encoder"] |= {"att_context_size": [8, 1], "att_context_probs": [1.0]}
    assert map_config(config).config.attention_context_probabilities is None
    config["encoder"]["att_context_probs"] = [0.5, 0.5]
    with pytest.raises(ValueError, match=r"encoder\.att_context_probs=.* a probability for each of the 1 contexts"):
        map_config(config)
