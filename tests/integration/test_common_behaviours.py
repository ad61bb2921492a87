"""
What users of Transformers expect of every model class: fresh weights, loading, adapters, checkpointing, training.

What `test_modeling_fastconformer.py` shows of every class is not repeated here: saving and loading bit for bit,
options of loading, tied weights, copies, tuples, hidden states, half precision.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from models import (
    BLANK,
    CTC_HEADS,
    ENCODER_SHAPE,
    HEADS,
    KINDS,
    TRANSDUCERS,
    build_config,
    build_model,
    few_of,
    make_features,
)
from safetensors.torch import save_file
from tolerances import GRADIENT_SHARE
from torch import nn
from transformers import AutoModel, AutoModelForCTC

from transformers_fastconformer import (
    DecodingOptions,
    FastConformerConfig,
    FastConformerForTDT,
    FastConformerTDTConfig,
)

LENGTHS = torch.tensor([80, 48])
FEATURES = make_features(LENGTHS.tolist())
LABELS = torch.tensor([[1, 2, 3], [4, -100, -100]])
NO_DROPOUT: dict[str, Any] = dict.fromkeys(
    ("dropout", "dropout_positions", "activation_dropout", "attention_dropout", "dropout_pre_encoder"), 0.0
)


def without_dropout(kind: str) -> dict[str, Any]:
    """Values that leave nothing of a training step to chance."""
    config_class = KINDS[kind][1]
    names = ("decoder_dropout", "joint_dropout", "omega")
    return {**NO_DROPOUT, **{name: 0.0 for name in names if hasattr(config_class, name)}}


def run(model: nn.Module, kind: str, **options: Any) -> Any:
    arguments = {"labels": LABELS} if kind in HEADS else {}
    return model(FEATURES, input_lengths=LENGTHS, **arguments, **options)


def loss_of(model: nn.Module, kind: str) -> torch.Tensor:
    """The loss of a head; for an encoder one over the frames that count in both clips."""
    output = run(model, kind)
    return output.loss if kind in HEADS else output.last_hidden_state[:, :6].square().mean()


def assert_gradients_near(
    ours: dict[str, torch.Tensor], truth: dict[str, torch.Tensor], share: float = GRADIENT_SHARE
) -> None:
    """The largest difference at most `share` of the largest gradient of all weights."""
    assert set(ours) == set(truth)
    largest = max(float(gradient.abs().max()) for gradient in truth.values())
    for name, gradient in truth.items():
        assert float((ours[name] - gradient).abs().max()) <= share * largest, name


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def unused_parameters(kind: str, model: nn.Module) -> set[str]:
    """Those of the head that a hybrid keeps beside the one in use."""
    prefixes = ("decoder.", "joint.") if kind.endswith("hybrid_ctc") else ()
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)} if prefixes else set()


# Fresh weights


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_a_seed_decides_fresh_weights(kind):
    model_class = KINDS[kind][0]
    torch.manual_seed(1)
    built = model_class(build_config(kind)).state_dict()
    torch.manual_seed(1)
    from_config = model_class._from_config(build_config(kind)).state_dict()
    torch.manual_seed(2)
    other = model_class._from_config(build_config(kind), dtype=torch.bfloat16).state_dict()
    assert list(built) == list(from_config) == list(other)
    assert all(torch.equal(built[name], from_config[name]) for name in built)
    weights = [name for name in built if name.endswith("q_proj.weight")]
    assert weights
    assert not any(torch.equal(built[name].bfloat16(), other[name]) for name in weights)
    assert all(tensor.dtype == torch.bfloat16 for tensor in other.values() if tensor.is_floating_point())


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_every_weight_that_a_checkpoint_lacks_is_drawn(kind, tmp_path):
    """A checkpoint of one tensor: all the others must come from `_init_weights`, none from memory as it was."""
    model_class = KINDS[kind][0]
    fresh = model_class(build_config(kind))
    state = fresh.state_dict()
    kept = next(name for name in state if name.endswith("layers.0.norm_out.bias"))
    fresh.config.save_pretrained(tmp_path)
    save_file({kept: torch.full_like(state[kept], 7.0)}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    # The count of batches is a buffer that no checkpoint need have.
    assert set(report["missing_keys"]) >= {name for name, _ in fresh.named_parameters()} - {kept}
    for name, tensor in loaded.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.isfinite(tensor).all(), name
        truth = torch.full_like(state[kept], 7.0) if name == kept else state[name]
        if tensor.numel() == 1 or float(truth.double().std()) == 0:
            assert torch.equal(tensor, truth), name
        elif truth.numel() >= 100:
            assert float(tensor.std()) == pytest.approx(float(truth.std()), rel=0.5), name
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    for module in loaded.modules():
        if isinstance(module, nn.Embedding):
            assert module.weight[BLANK].abs().max() == 0


@pytest.mark.parametrize("kind", few_of(HEADS))
@pytest.mark.parametrize("source", ["encoder", "model"])
def test_a_new_head_begins_with_an_encoder(kind, source, saved_model, tmp_path, caplog):
    trained, folder = saved_model(source)
    model_class, _, shape = KINDS[kind]
    head_shape = {name: value for name, value in shape.items() if name not in ENCODER_SHAPE}
    with caplog.at_level(logging.WARNING):
        model, report = model_class.from_pretrained(folder, output_loading_info=True, **head_shape)
    # That weights are missing is worth a warning; that an encoder is no head is not.
    assert not any("to instantiate a model of type" in record.getMessage() for record in caplog.records)
    encoder = trained if source == "encoder" else trained.encoder
    state = model.encoder.state_dict()
    assert all(torch.equal(state[name], value) for name, value in encoder.state_dict().items())
    heads = {name for name in model.state_dict() if not name.startswith("encoder.")}
    assert set(report["missing_keys"]) == heads
    assert not report["unexpected_keys"]
    assert model.config.vocab_size == 11
    assert model.config.blank_token_id == model.config.pad_token_id == BLANK
    assert torch.isfinite(loss_of(model, kind))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == model_class.config_class.model_type
    assert type(model.config) is model_class.config_class


# Saving and loading


@pytest.mark.parametrize("kind", ["model", "ctc", "tdt_hybrid"])
def test_shards_hold_the_same(kind, tmp_path):
    model = build_model(kind, tie_position_biases=True).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    loaded, report = type(model).from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.dtype == torch.bfloat16
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    first, second = (layer.self_attn.bias_u for layer in loaded.encoder.layers)
    assert first is second


VOCABULARY_LAYERS = {
    "ctc": {"ctc_head.weight", "ctc_head.bias"},
    "tdt": {"decoder.embedding.weight", "joint.head.weight", "joint.head.bias"},
    "rnnt_stateless": {
        "decoder.embeddings.0.weight",
        "decoder.embeddings.1.weight",
        "joint.head.weight",
        "joint.head.bias",
    },
}


@pytest.mark.parametrize("kind", VOCABULARY_LAYERS)
def test_another_vocabulary_is_refused_or_drawn_anew(kind, saved_model):
    model, folder = saved_model(kind)
    with pytest.raises(ValueError, match=r"weight|bias.* is \(.*expected \(.*ignore_mismatched_sizes"):
        type(model).from_pretrained(folder, vocab_size=20)
    loaded, report = type(model).from_pretrained(
        folder, vocab_size=20, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {name for name, *_ in report["mismatched_keys"]} == VOCABULARY_LAYERS[kind]
    assert loaded.config.blank_token_id == loaded.config.pad_token_id == 19
    state = model.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.isfinite(tensor).all()
        assert name in VOCABULARY_LAYERS[kind] or torch.equal(tensor, state[name]), name
    for module in loaded.modules():
        if isinstance(module, nn.Embedding):
            assert module.padding_idx == 19
            assert module.weight[19].abs().max() == 0
    labels = torch.tensor([[18, 2, 3], [4, -100, -100]])
    assert torch.isfinite(loaded(FEATURES, input_lengths=LENGTHS, labels=labels).loss)


def test_values_given_while_loading_are_checked_together(saved_model):
    _, folder = saved_model("tdt")
    with pytest.raises(ValueError, match="num_attention_heads=2 is not supported; expected a divisor of"):
        FastConformerForTDT.from_pretrained(folder, hidden_size=17)
    with pytest.raises(ValueError, match="blank_token_id=3 is not supported; expected vocab_size - 1 = 19"):
        FastConformerTDTConfig.from_pretrained(folder, vocab_size=20, blank_token_id=3)
    local = FastConformerForTDT.from_pretrained(
        folder, position_embedding_type="rel_pos_local_attn", attention_context=[4, 4]
    )
    assert local.encoder.layers[0].self_attn.config.has_local_attention


# The layer at the input, adapters and checkpointing


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_the_layer_at_the_input_is_found_and_exchanged(kind):
    model = build_model(kind)
    encoder = model if kind == "encoder" else model.encoder
    layer = model.get_input_embeddings()
    assert layer is encoder.subsampling.linear
    assert model.get_output_embeddings() is None
    frames: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda module, arguments, output: frames.append(output))
    run(model, kind)
    hook.remove()
    assert frames[0].shape == (2, 10, ENCODER_SHAPE["hidden_size"])  # what the blocks are given
    other = nn.Linear(layer.in_features, layer.out_features)
    model.set_input_embeddings(other)
    assert encoder.subsampling.linear is model.get_input_embeddings() is other


@pytest.mark.parametrize("subsampling_type", ["dw_striding", "striding", "stacking", "stacking_norm", "none"])
def test_every_front_has_a_layer_at_the_input(subsampling_type):
    model = build_model("model", subsampling_type=subsampling_type)
    assert isinstance(model.get_input_embeddings(), nn.Linear)
    assert model.get_input_embeddings().out_features == ENCODER_SHAPE["hidden_size"]


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("kind", ["encoder", "ctc", "tdt"])
def test_a_few_weights_of_a_frozen_model_train_under_checkpointing(kind, use_reentrant):
    """What adapters need: gradients reach weights inside of checkpointed blocks though nothing before them trains."""

    def gradients(is_checkpointed: bool) -> dict[str, torch.Tensor]:
        model = build_model(kind, **without_dropout(kind)).train().requires_grad_(False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("q_proj.weight" in name)
        if is_checkpointed:
            enable_checkpointing(model, use_reentrant)
            model.enable_input_require_grads()
        loss_of(model, kind).backward()
        return gradients_of(model)

    plain = gradients(False)
    assert len(plain) == 2
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    assert_gradients_near(gradients(True), plain)


@pytest.mark.parametrize("use_reentrant", [True, False, None], ids=["reentrant", "not reentrant", "none"])
@pytest.mark.parametrize("kind", ["encoder", "model", "ctc", "tdt_hybrid", "rnnt_stateless"])
def test_adapters_of_peft_train_save_and_merge(kind, use_reentrant, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = build_model(kind, conv_norm_type="layer_norm").train()
    if use_reentrant is not None:
        enable_checkpointing(model, use_reentrant)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        arguments = {"labels": LABELS} if kind in HEADS else {}
        output = adapted(input_features=FEATURES, input_lengths=LENGTHS, **arguments)
        (output.loss if kind in HEADS else output[0][:, :6].square().mean()).backward()
        assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)
        optimizer.step()
    adapted.save_pretrained(tmp_path)
    base = build_model(kind, conv_norm_type="layer_norm")
    loaded = peft.PeftModel.from_pretrained(build_model(kind, conv_norm_type="layer_norm"), tmp_path)
    with torch.no_grad():
        trained, untrained = run(adapted.eval(), kind)[0], run(base, kind)[0]
        assert torch.equal(run(loaded.eval(), kind)[0], trained)
        assert not torch.allclose(trained, untrained, atol=1e-4)
        merged = run(loaded.merge_and_unload(), kind)[0]
    torch.testing.assert_close(merged, trained, rtol=1e-3, atol=1e-4)


def enable_checkpointing(model: nn.Module, use_reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("kind", ["model", "ctc", "rnnt", "tdt", "tdt_hybrid", "tdt_hybrid_ctc"])
def test_checkpointing_changes_no_loss_gradient_or_statistic(kind, use_reentrant):
    def step(is_checkpointed: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        model = build_model(kind, **without_dropout(kind)).train()
        if is_checkpointed:
            enable_checkpointing(model, use_reentrant)
        for _ in range(2):  # gradients add up, statistics move on
            loss = loss_of(model, kind)
            loss.backward()
        return loss.detach(), gradients_of(model), dict(model.named_buffers())

    (plain_loss, plain_gradients, plain_buffers), (loss, gradients, buffers) = step(False), step(True)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-6, atol=0)
    assert_gradients_near(gradients, plain_gradients)
    for name, truth in plain_buffers.items():
        torch.testing.assert_close(buffers[name], truth, rtol=1e-6, atol=1e-7)
    assert {int(count) for name, count in buffers.items() if name.endswith("num_batches_tracked")} == {2}


# Forms of attention and batches


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt_hybrid", "tdt_hybrid_ctc"])
@pytest.mark.parametrize("context", [{}, {"attention_context": [3, 1]}], ids=["full", "band"])
def test_forms_of_attention_give_one_loss_and_one_gradient(kind, context):
    model = build_model(kind, **without_dropout(kind), **context)

    def step(implementation: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.set_attn_implementation(implementation)
        model.zero_grad()
        loss = loss_of(model, kind)
        loss.backward()
        return loss.detach(), gradients_of(model)

    (eager_loss, eager_gradients), (loss, gradients) = step("eager"), step("sdpa")
    torch.testing.assert_close(loss, eager_loss, rtol=1e-5, atol=0)
    assert_gradients_near(gradients, eager_gradients)


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_a_batch_has_the_logits_and_the_mean_loss_of_its_clips(kind):
    model = build_model(kind)
    options = {"output_logits": True} if kind in TRANSDUCERS else {}
    with torch.no_grad():
        batch = run(model, kind, **options)
        alone = [
            model(FEATURES[clip : clip + 1, :length], labels=LABELS[clip : clip + 1], **options)
            for clip, length in enumerate(LENGTHS.tolist())
        ]
    losses = [output.loss for output in alone]
    torch.testing.assert_close(batch.loss, torch.stack(losses).mean(), rtol=1e-5, atol=0)
    for clip, output in enumerate(alone):
        frames, nodes = output.logits.shape[1], int((LABELS[clip] >= 0).sum()) + 1
        ours, truth = batch.logits[clip, :frames], output.logits[0]
        if kind in TRANSDUCERS:
            ours, truth = ours[:, :nodes], truth[:, :nodes]
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)


# Training


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_a_seed_decides_a_training_step(kind):
    values = {"joint_dropout": 0.5} if kind in TRANSDUCERS else {}
    model = build_model(kind, dropout=0.5, conv_norm_type="layer_norm", **values).train()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(loss_of(model, kind).item())
    assert losses[0] == losses[1] != losses[2]
    model.eval()
    assert loss_of(model, kind).item() == loss_of(model, kind).item()


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_a_few_steps_lower_the_loss_and_every_weight_moves(kind):
    model = build_model(kind, **without_dropout(kind)).train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = loss_of(model, kind)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0], losses
    unused = unused_parameters(kind, model)
    for name, weight in model.named_parameters():
        is_moved = not torch.equal(weight, before[name])
        assert is_moved != (name in unused), name


@pytest.mark.parametrize("kind", ["ctc", "rnnt_stateless", "tdt_hybrid"])
def test_a_frozen_encoder_stays_while_the_head_trains(kind):
    model = build_model(kind).train()
    model.encoder.requires_grad_(False).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model, kind).backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if not name.startswith("encoder.")}


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_switching_between_training_and_evaluation_changes_no_weight(kind):
    model = build_model(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        truth = run(model, kind)[0]
        model.train()
        assert all(module.training for module in model.modules())
        model.eval()
        assert not any(module.training for module in model.modules())
        assert torch.equal(run(model, kind)[0], truth)
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.items())


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt_hybrid"])
def test_a_model_in_bfloat16_trains(kind):
    model = build_model(kind).bfloat16().train()
    loss = loss_of(model, kind)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(weight.grad.dtype == torch.bfloat16 for weight in model.parameters())
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


# Impossible alignments


@pytest.mark.parametrize("is_hybrid", [False, True])
def test_a_clip_that_no_durations_fit_adds_nothing(is_hybrid):
    """56 mel frames are 7 encoder frames: no sum of 0, 2, 4 and 8."""
    options = {**without_dropout("tdt_far"), "has_ctc_head": is_hybrid, "ctc_loss_weight": 0.0}
    lengths, possible = torch.tensor([80, 56]), torch.tensor([80])
    features = make_features(lengths.tolist())
    model = build_model("tdt_far", **options)
    loss = model(features, input_lengths=lengths, labels=LABELS).loss
    loss.backward()
    gradients = gradients_of(model)
    model.zero_grad()
    alone = model(features[:1], input_lengths=possible, labels=LABELS[:1]).loss / 2
    alone.backward()
    torch.testing.assert_close(loss, alone, rtol=1e-5, atol=0)
    assert_gradients_near(gradients, gradients_of(model))


def test_infinity_is_kept_where_it_is_asked_for():
    model = build_model("tdt_far", transducer_zero_infinity=False)
    features = make_features([80, 56])
    loss = model(features, input_lengths=torch.tensor([80, 56]), labels=LABELS).loss
    assert torch.isinf(loss)
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


# What `generate` refuses


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", few_of(HEADS))
def test_features_that_are_not_finite_are_refused(kind, value):
    model, features = build_model(kind), FEATURES.clone()
    features[1, 60:] = value  # padding
    truth = model.generate(FEATURES, input_lengths=LENGTHS)
    assert torch.equal(model.generate(features, input_lengths=LENGTHS), truth)
    features[1, 47, 3] = value
    mask = torch.arange(80) < LENGTHS[:, None]
    for lengths in ({"input_lengths": LENGTHS}, {"attention_mask": mask}, {}):
        with pytest.raises(ValueError, match=r"input_features holds NaN or infinite values in clips \[1\]"):
            model.generate(features, **lengths)


@pytest.mark.parametrize(("kind", "name"), [*((kind, "logits") for kind in CTC_HEADS), ("tdt", "last_hidden_state")])
def test_an_overflow_in_float16_is_named(kind, name):
    model = build_model(kind).half()
    with torch.no_grad():
        model.encoder.layers[-1].norm_out.weight.fill_(60000.0)
    with pytest.raises(ValueError, match=rf"{name} holds NaN or infinite values in clips \[0, 1\].*float16"):
        model.generate(FEATURES, input_lengths=LENGTHS)


@pytest.mark.parametrize("limit", [2.5, 2.0, True, "3"])
def test_a_limit_of_tokens_that_is_no_integer_is_refused(limit):
    model = build_model("tdt")
    with pytest.raises(ValueError, match=f"max_symbols_per_step={limit!r} is not supported; expected an integer"):
        model.generate(FEATURES, max_symbols_per_step=limit)
    with pytest.raises(ValueError, match="expected an integer"):
        DecodingOptions(max_symbols_per_step=limit)


# The Auto classes with fresh weights


def test_the_auto_classes_build_from_a_configuration():
    torch.manual_seed(0)
    bare = AutoModel.from_config(FastConformerConfig(**ENCODER_SHAPE), attn_implementation="eager")
    assert bare.config._attn_implementation == "eager"
    with_head = AutoModelForCTC.from_config(build_config("ctc"), dtype=torch.bfloat16)
    assert with_head.dtype == torch.bfloat16


def test_a_saved_configuration_says_its_own_type(tmp_path: Path) -> None:
    for kind in KINDS:
        build_config(kind).save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        assert stored["model_type"] == KINDS[kind][1].model_type
        assert KINDS[kind][1].from_pretrained(tmp_path).to_dict() == build_config(kind).to_dict()
