"""8 bits as Transformers loads and saves them: the bits of `quantize_dynamic_int8`, no floats, refusals by name."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import build_model, make_features
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, PreTrainedModel, Trainer, TrainingArguments

from transformers_fastconformer import (
    FastConformerForTDT,
    FastConformerInt8Config,
    FastConformerModel,
    quantize_dynamic_int8,
    remove_int8,
)
from transformers_fastconformer.kernels import int8_linear
from transformers_fastconformer.modeling import attention
from transformers_fastconformer.modeling.int8_config import METHOD, is_int8_config
from transformers_fastconformer.modeling.int8_quantizer import find_int8_linears
from transformers_fastconformer.modeling.quantization import find_block_linears, is_int8, is_stored_in_8_bits

WEIGHTS = "model.safetensors"


@torch.no_grad()
def encode(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    features, lengths = make_features([64, 40]).to(dtype), torch.tensor([64, 40])
    run = getattr(model, "encode", model)
    return run(features, input_lengths=lengths).last_hidden_state


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in 8 bits, saved."""
    folder = tmp_path_factory.mktemp("stored")
    build_model("tdt").save_pretrained(folder / "floats")
    load_rounded(folder / "floats").save_pretrained(folder / "int8")
    return folder / "int8"


def load_rounded(folder: Path, **options: Any) -> Any:
    return FastConformerForTDT.from_pretrained(folder, quantization_config=FastConformerInt8Config(), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("kept_frames", [attention.KEPT_FRAMES, 1])
def test_the_stored_form_computes_the_bits_of_the_dynamic_one(
    tmp_path: Path, dtype: torch.dtype, local: bool, kept_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "KEPT_FRAMES", kept_frames)  # with 1, distances are projected in 8 bits as well
    model = build_model("tdt").eval().to(dtype)
    model.save_pretrained(tmp_path / "floats")
    quantize_dynamic_int8(model)
    on_load = load_rounded(tmp_path / "floats", dtype=dtype)
    on_load.save_pretrained(tmp_path / "int8")
    from_files, info = FastConformerForTDT.from_pretrained(tmp_path / "int8", dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    models = [on_load, from_files, AutoModel.from_pretrained(tmp_path / "int8", dtype=dtype)]
    models += [copy.deepcopy(from_files), pickle.loads(pickle.dumps(from_files))]
    if local:
        for one in (model, *models):
            one.set_attention_context([2, 2], position_embedding_type="rel_pos_local_attn")
    expected = encode(model, dtype)
    for one in models:
        assert one.dtype == dtype
        assert torch.equal(encode(one, dtype), expected)


def test_only_the_projection_of_distances_stays_in_floats(stored: Path) -> None:
    model = FastConformerForTDT.from_pretrained(stored)
    assert is_int8(model)
    assert is_stored_in_8_bits(model)
    left = {name for name, layer in model.encoder.layers.named_modules() if type(layer) is nn.Linear}
    assert left == {f"{index}.self_attn.relative_k_proj" for index in range(2)}
    assert len(list(find_block_linears(model))) == 2
    assert not any(parameter.requires_grad for parameter in model.parameters())
    config = json.loads((stored / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": METHOD}
    assert is_int8_config(config["quantization_config"])
    assert is_int8_config(model.config.quantization_config)
    assert not is_int8_config(None)
    held = load_file(stored / WEIGHTS)
    assert {tensor.dtype for name, tensor in held.items() if name.endswith("weight_int8")} == {torch.int8}
    assert list(model.state_dict()) == list(copy.deepcopy(model).state_dict())
    assert set(held) == set(model.state_dict())


def test_floats_come_back_on_request(stored: Path) -> None:
    model = FastConformerForTDT.from_pretrained(stored)
    rounded = encode(model)
    expected = {name: layer.to_linear(torch.float32).weight for name, layer in find_int8_linears(model)}
    config = copy.deepcopy(model.config)
    config.quantization_config = {"quant_method": METHOD, "dequantize": True}
    loaded = FastConformerForTDT.from_pretrained(stored, config=config)
    given = FastConformerForTDT.from_pretrained(
        stored, quantization_config=FastConformerInt8Config(dequantize=True), dtype=torch.float32
    )
    for floats in (model.dequantize(), loaded, given):
        assert not is_int8(floats)
        assert not hasattr(floats.config, "quantization_config")
        for name, weight in expected.items():
            assert torch.equal(floats.get_submodule(name).weight, weight)
        torch.testing.assert_close(encode(floats), rounded, rtol=0.2, atol=0.2)
        assert all(parameter.requires_grad for parameter in floats.parameters())
    features = make_features([64])
    model(input_features=features, labels=torch.tensor([[1, 2]])).loss.backward()


def test_training_is_refused(stored: Path, tmp_path: Path) -> None:
    model = FastConformerForTDT.from_pretrained(stored)
    with pytest.raises(ValueError, match="stored in 8 bits cannot be trained"):
        model.train()(input_features=make_features([64]), labels=torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match=r"fine-tuning|fine-tune"):
        Trainer(model=model, args=TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    with pytest.raises(ValueError, match="stored in 8 bits; expected a model after quantize_dynamic_int8"):
        remove_int8(model)


def test_what_cannot_be_is_refused(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"torch.float16 cannot be used with 8-bit weights"):
        FastConformerForTDT.from_pretrained(stored, dtype=torch.float16)
    floats = FastConformerForTDT.from_pretrained(
        stored.with_name("floats"), quantization_config=FastConformerInt8Config(dequantize=True)
    )
    assert not is_int8(floats)
    with pytest.raises(ValueError, match="quant_method='gptq' is not supported"):
        FastConformerInt8Config(quant_method="gptq")


def drop(weights: dict[str, torch.Tensor], name: str) -> None:
    del weights[name]


def change(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor], str], None]:
    return lambda weights, name: weights.update({name: make(weights[name])})


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        ("weight_int8", drop, "weight_int8 is missing; expected I8"),
        ("weight_scale", drop, "weight_scale is missing; expected F32"),
        ("weight_int8", change(torch.Tensor.float), "weight_int8 is F32; expected I8"),
        ("weight_scale", change(torch.Tensor.bfloat16), "weight_scale is BF16; expected F32"),
        ("weight_scale", change(lambda scale: scale * float("nan")), "weight_scale holds numbers that are not scales"),
        ("weight_scale", change(lambda scale: -scale), "weight_scale holds numbers that are not scales"),
    ],
)
@pytest.mark.parametrize("loader", [FastConformerForTDT, FastConformerModel])
def test_a_damaged_checkpoint_is_refused(
    stored: Path, tmp_path: Path, loader: Any, part: str, damage: Any, message: str
) -> None:
    (tmp_path / "config.json").write_text((stored / "config.json").read_text())
    weights = load_file(stored / WEIGHTS)
    damage(weights, f"encoder.layers.1.self_attn.v_proj.{part}")
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        loader.from_pretrained(tmp_path)


def test_source_pages_are_given_back_layer_by_layer(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []

    class Packed(int8_linear.PackedProduct):
        def __init__(self, rounded: torch.Tensor, scale: torch.Tensor) -> None:
            packed.append(rounded.data_ptr())
            self.plain = int8_linear.FloatProduct(rounded.clone(), scale)

        @staticmethod
        def prepare(rows: torch.Tensor) -> torch.Tensor:
            return rows

        def multiply(self, rows: torch.Tensor) -> torch.Tensor:
            return self.plain(rows)

    monkeypatch.setattr(int8_linear, "has_int8_products", lambda: True)
    monkeypatch.setattr(int8_linear, "PackedProduct", Packed)
    given_back: list[int] = []

    class Pages:
        def give_back(self, tensor: torch.Tensor) -> None:
            assert packed[-1] == tensor.data_ptr()
            given_back.append(tensor.data_ptr())

    monkeypatch.setattr("transformers_fastconformer.modeling.int8_quantizer.MappedPages", Pages)
    model = FastConformerForTDT.from_pretrained(stored)
    assert given_back == [layer.weight_int8.data_ptr() for _, layer in find_int8_linears(model)]
    before = len(packed)
    encode(model)
    assert len(packed) == before  # nothing is packed again


def test_source_pages_that_are_multiplied_are_kept(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pages:
        def give_back(self, tensor: torch.Tensor) -> None:
            raise AssertionError("the weight is needed in every call")

    monkeypatch.setattr("transformers_fastconformer.modeling.int8_quantizer.MappedPages", Pages)
    monkeypatch.setattr(int8_linear, "has_int8_products", lambda: False)
    assert is_int8(FastConformerForTDT.from_pretrained(stored))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_floats_after_saving_are_of_one_dtype(stored: Path, tmp_path: Path, dtype: torch.dtype | None) -> None:
    model = FastConformerForTDT.from_pretrained(stored)
    model.save_pretrained(tmp_path)  # leaves the dtype of the configuration as text
    floats = model.dequantize() if dtype is None else model.dequantize(dtype)
    expected = dtype or torch.float32
    assert {tensor.dtype for tensor in floats.state_dict().values() if tensor.is_floating_point()} == {expected}
    assert encode(floats, expected).dtype == expected


def test_floats_made_with_a_configuration_of_8_bits_are_saved_as_floats(stored: Path, tmp_path: Path) -> None:
    model = FastConformerForTDT(FastConformerForTDT.config_class.from_pretrained(stored)).eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(encode(FastConformerForTDT.from_pretrained(tmp_path)), encode(model))
