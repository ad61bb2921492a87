"""Names and shapes of tensors, both ways, on the meta device."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer.checkpoints.model_classes import ARCHITECTURES
from transformers_fastconformer.checkpoints.name_table import POINTWISE, SAME, Check, Drop
from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.weight_map import name_table, unmap_state_dict

ENCODER_VARIANTS = [
    {},
    {"use_bias": False, "xscaling": False},
    {"subsampling": "striding", "subsampling_factor": 4},
    {"subsampling": "stacking", "subsampling_factor": 3},
    {"subsampling": "stacking_norm", "subsampling_factor": 4},
    {"subsampling": None},
    {"causal_downsampling": True},
    {"reduction": "striding", "reduction_position": 0, "reduction_factor": 2},
    {"self_attention_model": "abs_pos"},
    {"untie_biases": False},
    {"feat_out": 24},
    *({"conv_norm_type": kind} for kind in ("layer_norm", "group_norm4", "instance_norm", "fused_batch_norm")),
]


def shapes_of(config):
    mapped = map_config(config)
    with torch.device("meta"):
        model = ARCHITECTURES[mapped.architecture](mapped.config)
    return mapped.config, model.state_dict()


def round_trip(config):
    our_config, state_dict = shapes_of(config)
    nemo_state_dict = unmap_state_dict(state_dict, our_config)
    assert len(nemo_state_dict) == len(state_dict), "no two of our tensors have one name in NeMo"
    back = {}
    table = name_table(our_config)
    for nemo_name, tensor in nemo_state_dict.items():
        name, row = table.to_ours(nemo_name)
        back[name] = row.form.to_ours(tensor, tuple(state_dict[name].shape))
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in state_dict.items()}
    return nemo_state_dict


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt", "hybrid_rnnt_ctc", "hybrid_tdt_ctc"])
def test_round_trip_of_every_head(nemo_config, kind):
    round_trip(nemo_config(kind))


@pytest.mark.parametrize("options", ENCODER_VARIANTS, ids=str)
def test_round_trip_of_every_encoder(nemo_config, options):
    config = nemo_config("ctc")
    config["encoder"] |= options
    round_trip(config)


def test_names_and_shapes_are_those_of_nemo(nemo_config):
    """Written down from a NeMo 3.0.0 state dict of these options."""
    names = {name: tuple(tensor.shape) for name, tensor in round_trip(nemo_config("hybrid_tdt_ctc")).items()}
    expected = {
        "encoder.pre_encode.conv.0.weight": (8, 1, 3, 3),
        "encoder.pre_encode.conv.6.bias": (8,),
        "encoder.pre_encode.out.weight": (16, 16),
        "encoder.layers.1.norm_feed_forward1.weight": (16,),
        "encoder.layers.1.feed_forward2.linear1.weight": (64, 16),
        "encoder.layers.1.conv.pointwise_conv1.weight": (32, 16, 1),
        "encoder.layers.1.conv.depthwise_conv.weight": (16, 1, 5),
        "encoder.layers.1.conv.batch_norm.running_var": (16,),
        "encoder.layers.1.conv.batch_norm.num_batches_tracked": (),
        "encoder.layers.1.conv.pointwise_conv2.weight": (16, 16, 1),
        "encoder.layers.1.self_attn.pos_bias_u": (2, 8),
        "encoder.layers.1.self_attn.linear_q.bias": (16,),
        "encoder.layers.1.self_attn.linear_pos.weight": (16, 16),
        "encoder.layers.1.self_attn.linear_out.weight": (16, 16),
        "decoder.prediction.embed.weight": (29, 12),
        "decoder.prediction.dec_rnn.lstm.weight_ih_l1": (48, 12),
        "joint.pred.weight": (20, 12),
        "joint.enc.weight": (20, 16),
        "joint.joint_net.2.weight": (33, 20),
        "ctc_decoder.decoder_layers.0.weight": (29, 16, 1),
    }
    assert {name: names.get(name) for name in expected} == expected
    assert not any("linear_pos.bias" in name for name in names)


def test_joint_head_moves_when_there_is_no_dropout(nemo_config):
    config = nemo_config("rnnt")
    assert "joint.joint_net.2.weight" in round_trip(config)
    for dropout in (0.0, None):
        config["joint"]["jointnet"]["dropout"] = dropout
        assert "joint.joint_net.1.weight" in round_trip(config)


def test_stateless_prediction_network(nemo_config):
    config = nemo_config("rnnt")
    config["decoder"] = {
        "_target_": "StatelessTransducerDecoder",
        "context_size": 3,
        "vocab_size": 28,
        "prednet": {"pred_hidden": 12},
    }
    names = round_trip(config)
    widths = [names[f"decoder.prediction.embeds.{index}.weight"].shape[1] for index in range(3)]
    assert widths == [8, 2, 2]


def test_local_attention_with_projections_of_its_own(nemo_config):
    config = nemo_config("ctc")
    config["encoder"] |= {"self_attention_model": "rel_pos_local_attn", "att_context_size": [8, 8]}
    table = name_table(map_config(config).config)
    ours, row = table.to_ours("encoder.layers.0.self_attn.global_q.weight")
    assert ours == "encoder.layers.0.self_attn.global_q_proj.weight"
    assert table.to_theirs(ours) == ("encoder.layers.0.self_attn.global_q.weight", row)


def test_dropped_tensors_have_reasons(nemo_config):
    table = name_table(map_config(nemo_config("ctc")).config)
    for name, kind in (
        ("preprocessor.featurizer.fb", Check),
        ("preprocessor.featurizer.window", Check),
        ("encoder.pos_enc.pe", Drop),
    ):
        row = table.find(name)
        assert type(row) is kind
        assert row.reason
        assert table.to_ours(name) is None


def test_only_parts_of_the_encoder_stay_where_it_has_no_head(nemo_config):
    table = name_table(map_config(nemo_config("ctc"), encoder_only=True).config)
    for name in ("decoder.decoder_layers.0.weight", "encoder_proj.weight", "lang_id_prompt_kernel.0.weight"):
        assert table.find(name).reason == "not of the encoder"
    assert table.find("encoder.pre_encode.masking.mask_embedding").reason.startswith("hides frames")
    assert table.to_ours("encoder.out_proj.weight")[0] == "encoder.output_proj.weight"
    assert table.find("preprocessor.anything") is None


@pytest.mark.parametrize("prefix", ["", "encoder.", "joint.inner."])
def test_the_kernel_of_offline_language_prompts_is_refused_by_name(nemo_config, shapes, prefix):
    nemo, ours, config = shapes
    names = [f"{prefix}lang_id_prompt_kernel.{index}.{part}" for index in (0, 2) for part in ("weight", "bias")]
    nemo |= dict.fromkeys(names, (4,))
    with pytest.raises(ValueError, match="offline language prompts") as raised:
        name_table(config).plan_reading(nemo, ours, "x.nemo")
    assert str(raised.value).startswith(f"x.nemo: tensors {', '.join(names)} are not supported; they are the kernel")
    assert "not supported yet" in str(raised.value)


@pytest.fixture
def shapes(nemo_config):
    config, state_dict = shapes_of(nemo_config("tdt"))
    ours = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    nemo = {name: tuple(tensor.shape) for name, tensor in unmap_state_dict(state_dict, config).items()}
    return nemo, ours, config


def test_plan_covers_everything(shapes):
    nemo, ours, config = shapes
    plan = name_table(config).plan_reading({**nemo, "preprocessor.featurizer.fb": (1, 16, 257)}, ours, "x.nemo")
    targets = plan.targets
    assert {target.name for target in targets.values()} == set(ours)
    assert set(plan.left_out) == {"preprocessor.featurizer.fb"}
    assert targets["encoder.layers.0.conv.pointwise_conv1.weight"].form is POINTWISE
    assert targets["encoder.layers.0.conv.pointwise_conv1.bias"].form is SAME
    assert targets["encoder.layers.0.conv.depthwise_conv.weight"].form is SAME


def test_plan_names_what_does_not_fit(shapes):
    nemo, ours, config = shapes
    nemo["joint.enc.weight"] = (20, 17)
    nemo["encoder.layers.0.conv.pointwise_conv1.weight"] = (32, 16)
    del nemo["decoder.prediction.embed.weight"]
    nemo["encoder.layers.0.adapter_layer.linear.weight"] = (4, 4)
    nemo["encoder.layers.2.norm_out.weight"] = (16,)
    with pytest.raises(ValueError, match=r"x\.nemo: the weights do not fit their configuration") as raised:
        name_table(config).plan_reading(nemo, ours, "x.nemo")
    message = str(raised.value)
    assert "joint.enc.weight is (20, 17), expected (20, 16)" in message
    assert "encoder.layers.0.conv.pointwise_conv1.weight is (32, 16), expected (32, 16, 1)" in message
    assert "missing tensors: decoder.prediction.embed.weight" in message
    assert "not supported: encoder.layers.0.adapter_layer.linear.weight, encoder.layers.2.norm_out.weight" in message


def test_long_lists_are_cut(shapes):
    nemo, ours, config = shapes
    with pytest.raises(ValueError, match=rf"and {len(nemo) - 8} more"):
        name_table(config).plan_reading({}, ours, "x.nemo")


def test_foreign_tensors_have_no_name_in_nemo(shapes):
    with pytest.raises(ValueError, match=r"Tensor 'lm_head\.weight' has no name in NeMo"):
        unmap_state_dict({"lm_head.weight": torch.zeros(1)}, shapes[2])
