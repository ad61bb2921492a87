"""8-bit inference of whole models: near the exact one, switched on and off, and gone wherever gradients are wanted."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from models import HEADS, KINDS, build_model, few_of, make_features
from torch import nn

from transformers_fastconformer import FastConformerForTDT, quantize_dynamic_int8, remove_int8
from transformers_fastconformer.kernels.int8_linear import use_int8
from transformers_fastconformer.modeling.quantization import find_block_linears, is_int8


@torch.no_grad()
def test_a_model_in_8_bits_is_near_the_exact_one_and_back() -> None:
    model = build_model("tdt").eval()
    features, lengths = make_features([64, 40]), torch.tensor([64, 40])

    def encode() -> torch.Tensor:
        return model.encode(features, input_lengths=lengths).last_hidden_state

    exact, names = encode(), list(model.state_dict())
    assert quantize_dynamic_int8(model) is model
    assert is_int8(model)
    rounded = encode()
    difference = float((rounded - exact).norm() / exact.norm())
    assert 1e-5 < difference < 0.05
    assert list(model.state_dict()) == names
    assert remove_int8(model) is model
    assert not is_int8(model)
    assert torch.equal(encode(), exact)


def test_gradients_are_those_of_the_exact_model() -> None:
    model = build_model("ctc").eval()
    features = make_features([64])

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model(input_features=features).logits.square().mean().backward()
        return next(find_block_linears(model)).weight.grad.clone()

    exact = gradient()
    quantize_dynamic_int8(model)
    assert torch.equal(gradient(), exact)


@torch.no_grad()
def test_a_saved_model_is_exact_and_copies_keep_8_bits(tmp_path: Path) -> None:
    exact_model = build_model("tdt").eval()
    model = quantize_dynamic_int8(copy.deepcopy(exact_model))
    assert not is_int8(exact_model)
    features = make_features([48])
    rounded = model.encode(features).last_hidden_state  # its 8-bit weights exist
    deep, pickled, shallow = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)
    for twin in (deep, pickled, shallow):
        assert is_int8(twin)
        assert torch.equal(twin.encode(features).last_hidden_state, rounded)
    for twin in (deep, pickled):
        remove_int8(twin)
        assert not is_int8(twin)
        assert is_int8(model)
    torch.save(model, tmp_path / "whole.pt")
    assert is_int8(torch.load(tmp_path / "whole.pt", weights_only=False))
    model.save_pretrained(tmp_path)
    loaded = FastConformerForTDT.from_pretrained(tmp_path).eval()
    assert not is_int8(loaded)
    exact = exact_model.encode(features).last_hidden_state
    assert torch.equal(loaded.encode(features).last_hidden_state, exact)
    assert not torch.equal(model.encode(features).last_hidden_state, exact)


def test_what_has_no_8_bits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.float16 cannot use 8 bits; expected .cpu. in float32 or bfloat16"):
        quantize_dynamic_int8(build_model("ctc").half())
    with pytest.raises(ValueError, match=r"'meta' in torch\.float32"):
        quantize_dynamic_int8(build_model("ctc").to("meta"))


@pytest.mark.parametrize("case", ["training", "half", "double", "hooks", "eager"])
@torch.no_grad()
def test_8_bits_are_for_layers_as_they_were_built_in_evaluation(case: str) -> None:
    """Otherwise nothing of the encoder is in 8 bits, attention beside them no more in bfloat16."""
    model = build_model("encoder").eval()
    if case == "training":
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.Dropout):
                module.eval()
        model.config.attention_dropout = model.config.dropout_positions = model.config.dropout_pre_encoder = 0.0
    elif case in ("half", "double"):
        model = getattr(model, case)()
    elif case == "hooks":
        for layer in find_block_linears(model):
            layer.register_forward_hook(lambda module, inputs, output: None)
    elif case == "eager":
        model.set_attn_implementation("eager")
    features = make_features([64]).to(model.dtype)
    exact = model(features).last_hidden_state
    for layer in find_block_linears(model):
        use_int8(layer, True)  # `quantize_dynamic_int8` itself refuses 16 bits of the other kind
    assert torch.equal(model(features).last_hidden_state, exact)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize("layers", [{nn.Linear}, {nn.Linear, nn.LSTM}], ids=["linear", "linear and lstm"])
@pytest.mark.parametrize("kind", few_of(KINDS))
@torch.no_grad()
def test_layers_quantised_by_torch_are_called_as_they_are(kind: str, layers: set[type[nn.Module]]) -> None:
    """`torch.ao.quantization.quantize_dynamic`: near the exact result, and no layer is taken for what it was."""
    model, features, lengths = build_model(kind), make_features([90, 41]), torch.tensor([90, 41])
    quantized = torch.ao.quantization.quantize_dynamic(model, layers)
    for batch, batch_lengths in ((features, lengths), (features[:1], None)):
        encode = [getattr(each, "encode", each) for each in (model, quantized)]
        exact, rounded = (
            function(batch, input_lengths=batch_lengths).last_hidden_state.flatten() for function in encode
        )
        assert 0.0 < torch.dist(rounded, exact) < 0.2 * exact.norm()
    if kind in HEADS:
        assert quantized.generate(features, input_lengths=lengths).shape[0] == 2
        labels = torch.tensor([[1, 2], [3, -100]])
        assert quantized(features, input_lengths=lengths, labels=labels).loss.isfinite()
