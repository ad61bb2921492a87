"""The conventions of Transformers for every class, fresh weights, and choosing what attention sees."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_cases import build_config as build_small_config
from attention_cases import build_encoder, draw
from models import BLANK, HEADS, KINDS, build_config, build_model, few_of, make_features
from safetensors.torch import save_file

from transformers_fastconformer import FastConformerEncoder, FastConformerModel

STATE_DICT_NAMES = Path(__file__).resolve().parents[1] / "fixtures" / "state_dict_names.json"


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, truth = one.state_dict(), other.state_dict()
    assert list(ours) == list(truth)
    for name, tensor in truth.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_is_bit_equal_and_silent(kind, saved_model, caplog, recwarn):
    model, folder = saved_model(kind)
    with caplog.at_level(logging.WARNING):
        loaded, report = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert not caplog.records
    assert not recwarn.list
    assert type(loaded.config) is type(model.config)
    assert not loaded.training
    assert_same_weights(loaded, model)
    features = make_features([40])
    with torch.no_grad():
        assert torch.equal(loaded(features)[0], model(features)[0])


@pytest.mark.parametrize("loader", [FastConformerEncoder, FastConformerModel])
@pytest.mark.parametrize("kind", few_of(KINDS))
def test_the_encoder_comes_out_of_every_checkpoint_silently(kind, loader, saved_model, caplog, recwarn):
    model, folder = saved_model(kind)
    with caplog.at_level(logging.WARNING):
        loaded, report = loader.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert not caplog.records
    assert not recwarn.list
    encoder = model if kind == "encoder" else model.encoder
    assert_same_weights(loaded if loader is FastConformerEncoder else loaded.encoder, encoder)


def test_an_encoder_taken_out_of_a_head_is_saved_as_one(saved_model, tmp_path):
    model, _ = saved_model("tdt")
    model.encoder.save_pretrained(tmp_path)
    loaded, report = FastConformerEncoder.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert_same_weights(loaded, model.encoder)


def test_weights_that_are_missing_are_drawn_and_the_others_kept(saved_model, tmp_path):
    """Fresh weights for what a checkpoint lacks must not touch their loaded neighbours, such as one of two biases."""
    model, _ = saved_model("tdt")
    model.config.save_pretrained(tmp_path)
    dropped = {
        "encoder.layers.1.self_attn.bias_u",
        "encoder.layers.0.conv.depthwise_conv.weight",
        "decoder.lstm.weight_hh_l0",
        "joint.head.bias",
    }
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in dropped}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == dropped
    for name, tensor in loaded.state_dict().items():
        assert torch.isfinite(tensor).all()
        assert name in dropped or torch.equal(tensor, state[name]), name
    assert loaded.encoder.layers[1].self_attn.bias_u.abs().max() == 0
    assert loaded.decoder.lstm.weight_hh_l0.detach().std().item() == pytest.approx(0.02, rel=0.2)


LOADING_OPTIONS: list[dict[str, Any]] = [
    {"dtype": torch.bfloat16},
    {"dtype": "float16"},
    {"torch_dtype": torch.float16},
    {"dtype": "auto"},
    {"device_map": "cpu"},
    {"device_map": "auto"},
    {"device_map": {"": "cpu"}},
    {"low_cpu_mem_usage": True},
    {"attn_implementation": "eager"},
]


def each_option_and_each_kind() -> Iterator[Any]:
    """Every option with two kinds and every kind with two options; `slow` has all pairs."""
    for number, options in enumerate(LOADING_OPTIONS):
        for kind in KINDS:
            is_shown = kind in ("encoder", "tdt_hybrid_ctc") or number in (0, 5)
            yield pytest.param(kind, options, marks=[] if is_shown else pytest.mark.slow, id=f"{options}-{kind}")


@pytest.mark.parametrize(("kind", "options"), each_option_and_each_kind())
def test_loading_options(kind, options, saved_model):
    model, folder = saved_model(kind)
    loaded = type(model).from_pretrained(folder, **options)
    dtype = options.get("dtype", options.get("torch_dtype", torch.float32))
    dtype = {"auto": torch.float32, "float16": torch.float16}.get(dtype, dtype)
    assert loaded.dtype == dtype
    assert loaded.device == torch.device("cpu")
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor.to(dtype) if tensor.is_floating_point() else tensor)
    assert loaded.config._attn_implementation == options.get("attn_implementation", "sdpa")
    with torch.no_grad():
        assert torch.isfinite(loaded(make_features([20]))[0]).all()


def test_the_dtype_of_a_checkpoint_is_kept(tmp_path):
    build_model("tdt").bfloat16().save_pretrained(tmp_path)
    model = KINDS["tdt"][0].from_pretrained(tmp_path, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention", "sparse"])
def test_other_forms_of_attention_are_refused(implementation):
    model = build_model("encoder")
    with pytest.raises((ValueError, ImportError)):
        model.set_attn_implementation(implementation)
    with pytest.raises((ValueError, ImportError)):
        FastConformerEncoder._from_config(build_config("encoder"), attn_implementation=implementation)


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_copies_are_independent_and_equal(kind, saved_model):
    model, _ = saved_model(kind)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert_same_weights(twin, model)
        features = make_features([40, 12])
        lengths = torch.tensor([40, 12])
        with torch.no_grad():
            assert torch.equal(twin(features, input_lengths=lengths)[0], model(features, input_lengths=lengths)[0])
            parameter = next(twin.parameters())
            parameter.add_(1.0)
        assert not torch.equal(parameter, next(model.parameters()))


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_models_are_built_on_the_meta_device(kind, saved_model):
    with torch.device("meta"):
        model = KINDS[kind][0](build_config(kind))
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    truth = saved_model(kind)[0].state_dict()
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in truth.items()
    }
    # And carries data: weights loaded into it work as if it had been built with them.
    model.load_state_dict(truth, strict=True, assign=True)
    with torch.no_grad():
        assert torch.equal(model.eval()(make_features([20]))[0], saved_model(kind)[0](make_features([20]))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_weights_are_stable(kind, saved_model):
    """
    Checkpoints in the world hold these names: a change of this list is a change of the format.

    Written once by `{kind: {name: list(shape)}}` of the models in `models.py`.
    """
    stored = json.loads(STATE_DICT_NAMES.read_text(encoding="utf-8"))[kind]
    assert {name: list(tensor.shape) for name, tensor in saved_model(kind)[0].state_dict().items()} == stored


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_fresh_weights_are_sound(kind):
    torch.manual_seed(0)
    model = KINDS[kind][0](build_config(kind))
    layers = (torch.nn.Conv1d, torch.nn.Conv2d)
    convolutions = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all()
        if id(parameter) in convolutions:
            spread = float(parameter.detach().std()) * parameter[0].numel() ** 0.5
            assert 0.4 < spread < 0.8, name  # 0.577 with as many weights as one likes
        elif parameter.ndim >= 2 and not name.endswith(("bias_u", "bias_v")):
            assert 0.005 < float(parameter.detach().std()) < 0.04, name
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            assert module.weight[BLANK].abs().max() == 0


@torch.no_grad()
def test_fresh_fronts_pass_speech_on() -> None:
    """One range for all weights let it fade to 1e-8 in the front, far below what layer norms add to a variance."""
    torch.manual_seed(0)
    front = KINDS["encoder"][0](build_config("encoder", subsampling_factor=8, num_mel_bins=80)).subsampling
    found = front(torch.randn(2, 160, 80), torch.tensor([160, 160]))[0]
    assert float(found.std()) > 0.001


@pytest.mark.parametrize("kind", ["encoder", "ctc", "tdt"])
def test_resizing_the_vocabulary_is_refused(kind):
    with pytest.raises(ValueError, match="resize_token_embeddings is not supported"):
        build_model(kind).resize_token_embeddings(20)


# Choosing what attention sees


@pytest.mark.parametrize("kind", ["encoder", "ctc", "tdt"])
@torch.no_grad()
def test_a_context_for_one_call(kind: str) -> None:
    """All parameters are shared, and the model itself goes on with its own context."""
    model = build_model(kind, attention_context=[8, 3], attention_context_style="chunked_limited")
    features = make_features([120])
    encode = getattr(model, "encode", model)
    before, configuration = encode(features).last_hidden_state, copy.deepcopy(model.config)
    other = model.with_attention_context([4, 1])
    assert {value.data_ptr() for value in other.parameters()} == {value.data_ptr() for value in model.parameters()}
    found = getattr(other, "encode", other)(features).last_hidden_state
    assert model.config == configuration
    assert torch.equal(encode(features).last_hidden_state, before)
    model.set_attention_context([4, 1])
    assert torch.equal(found, encode(features).last_hidden_state)
    assert not torch.equal(found, before)
    with pytest.raises(ValueError, match=r"attention_context=\[1\]"):
        model.with_attention_context([1])


@torch.no_grad()
def test_set_attention_context_is_the_configuration_of_a_new_model() -> None:
    encoder = build_encoder(attention_context=[8, 3], attention_context_style="chunked_limited")
    features = draw(1, 120, 8)
    for context, style, position_type in (
        ([4, 1], None, None),
        ([-1, -1], "regular", None),
        ([5, 5], None, "rel_pos_local_attn"),
        ([4, 3, 2], "chunked_limited_with_rc", "rel_pos"),
    ):
        encoder.set_attention_context(context, style, position_type)
        fresh = FastConformerEncoder(
            build_small_config(
                attention_context=context,
                attention_context_style=encoder.config.attention_context_style,
                position_embedding_type=encoder.config.position_embedding_type,
            )
        ).eval()
        fresh.load_state_dict(encoder.state_dict())
        assert torch.equal(encoder(features).last_hidden_state, fresh(features).last_hidden_state)


@pytest.mark.parametrize(
    ("context", "style", "position_type", "message"),
    [
        ([7, 2], "chunked_limited", None, "a left context that is a multiple of the chunk"),
        ([1], None, None, r"attention_context=\[1\] is not supported; expected \[left, right\]"),
        ([-2, 0], None, None, "-1 for no limit"),
        ([4, 4, 4], None, None, r"expected \[left, right\]"),
        ([4, 0, 4], "chunked_limited_with_rc", None, "with a chunk of 1 or more"),
        ([-1, 4], None, "rel_pos_local_attn", "limits on both sides"),
        ([0, 0], None, "rel_pos_local_attn", "limits on both sides"),
        ([4, 4], None, "abs_pos", "position_embedding_type='abs_pos' is not supported for a model"),
        ([4, 4], "sliding", None, "attention_context_style='sliding' is not supported"),
        ([4, 4], None, "rotary", "position_embedding_type='rotary' is not supported"),
    ],
)
def test_set_attention_context_refuses_and_keeps_the_old_one(
    context: list[int], style: str | None, position_type: str | None, message: str
) -> None:
    encoder = build_encoder(attention_context=[6, 2])
    before = encoder.config.to_dict()
    with pytest.raises(ValueError, match=message):
        encoder.set_attention_context(context, style, position_type)
    assert encoder.config.to_dict() == before


def test_set_attention_context_warns_of_a_context_not_trained_with(caplog: pytest.LogCaptureFixture) -> None:
    encoder = build_encoder(
        attention_context=[8, 3], attention_contexts=[[8, 3], [8, 1]], attention_context_style="chunked_limited"
    )
    encoder.set_attention_context([8, 1])
    assert not caplog.records
    encoder.set_attention_context([8, 0])
    assert "none of the contexts that the model was trained with: [[8, 3], [8, 1]]" in caplog.text
    assert encoder.config.attention_context == [8, 0]


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_values_that_were_set_one_by_one_are_checked_when_a_model_is_built(kind, saved_model):
    model, _ = saved_model(kind)
    config = copy.deepcopy(model.config)
    config.vocab_size += 20  # the blank is the last one
    with pytest.raises(ValueError, match=rf"blank_token_id={BLANK} is not supported; expected vocab_size - 1"):
        type(model)(config)
