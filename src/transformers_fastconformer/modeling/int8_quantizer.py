"""
8 bits as a stored form, for Transformers: the quantizer.

`config.json` then has `quantization_config`, and the linear layers of the encoder's blocks are [`Int8Linear`]. The
projection of distances stays as it was stored, since its products are kept between calls in floating point.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from ..kernels.int8_linear import INT8_DTYPES, Int8Linear
from ..kernels.mapped_pages import MappedPages
from ..validation import reading
from .int8_config import METHOD, FastConformerInt8Config, is_dequantization_asked
from .quantization import find_block_linears

# Parts of a layer in a file, and the format's names of their types.
STORED_DTYPES = {"weight_int8": "I8", "weight_scale": "F32"}
KEPT_AS_STORED = "relative_k_proj"


@register_quantizer(METHOD)
class FastConformerInt8Quantizer(HfQuantizer):
    """Loading of models with 8-bit weights: stored so, or rounded while loading."""

    quantization_config: FastConformerInt8Config

    def __init__(self, quantization_config: FastConformerInt8Config, **kwargs: Any) -> None:
        if is_dequantization_asked():
            quantization_config = FastConformerInt8Config(dequantize=True)
        super().__init__(quantization_config, **kwargs)
        if quantization_config.dequantize and not self.pre_quantized:
            raise ValueError(
                "dequantize=True is not supported for a checkpoint of floating weights; expected one stored in 8 bits."
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Refuse a dtype that 8-bit weights are not used with."""
        if not self.quantization_config.dequantize and dtype not in INT8_DTYPES:
            expected = " or ".join(map(str, INT8_DTYPES))
            raise ValueError(f"dtype={dtype} cannot be used with 8-bit weights; expected {expected}.")
        return dtype

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if self.pre_quantized:
            for name, layer in find_stored_linears(model):
                model.set_submodule(name, Int8Linear.from_linear(layer))
            check_files(model, kwargs.get("checkpoint_files") or [])
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        pages = MappedPages()
        if not self.pre_quantized:
            store_in_8_bits(model, pages)
        for name, layer in find_int8_linears(model):
            check_loaded(name, layer)
        if self.quantization_config.dequantize:
            return replace_by_floats(model, model.dtype)
        for _, layer in find_int8_linears(model):
            if layer.pack().is_copy:
                pages.give_back(layer.weight_int8)
        model.requires_grad_(False)
        return model

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        # A configuration that was saved holds its dtype as text.
        wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype or model.dtype
        replace_by_floats(model, wanted)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(wanted)
        return model.requires_grad_(True)

    def is_serializable(self) -> bool:
        """True: the form is made to be stored."""
        return True

    @property
    def is_trainable(self) -> bool:
        """False: whole numbers have no gradients."""
        return False

    @property
    def is_compileable(self) -> bool:
        """True: in graphs the layers multiply by `torch._int_mm`."""
        return True


def find_stored_linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers that are stored in 8 bits, with their names."""
    wanted = set(find_block_linears(model))
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if layer in wanted and not name.endswith(KEPT_AS_STORED) and isinstance(layer, nn.Linear)
    ]


def find_int8_linears(model: nn.Module) -> list[tuple[str, Int8Linear]]:
    """The layers that hold 8-bit weights, with their names."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Int8Linear)]


def store_in_8_bits(model: PreTrainedModel, pages: MappedPages) -> None:
    """Put rounded weights in the place of the floating ones, which leave memory one by one."""
    names = [name for name, _ in find_stored_linears(model)]  # a list of the layers would keep them
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        model.set_submodule(name, Int8Linear.from_linear(layer))
        pages.give_back(layer.weight.detach())


def replace_by_floats(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Put floating weights of the same values in the place of the rounded ones."""
    for name, layer in find_int8_linears(model):
        model.set_submodule(name, layer.to_linear(dtype))
    return model


def check_files(model: PreTrainedModel, files: Sequence[str]) -> None:
    """
    Refuse files that lack 8-bit weights of a model, or hold others in their place: Transformers would fill them, and
    convert those.

    Args:
        model: The model, before its weights are loaded.
        files: Of the checkpoint; those in other formats than safetensors are not looked into.

    Raises:
        ValueError: naming the file and the tensor.
    """
    stored: dict[str, str] = {}
    for file in files:
        if not str(file).endswith(".safetensors"):
            return
        with reading(str(file), "a safetensors file"), open(file, "rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
            stored |= {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    prefix = f"{model.base_model_prefix}."
    for layer_name, _ in find_int8_linears(model) if stored else []:
        for part, dtype in STORED_DTYPES.items():
            name = f"{layer_name}.{part}"
            found = next(
                (stored[key] for key in (name, prefix + name, name.removeprefix(prefix)) if key in stored), None
            )
            if found != dtype:
                raise ValueError(f"{files[0]}: {name} is {found or 'missing'}; expected {dtype}, as stored in 8 bits.")


def check_loaded(name: str, layer: Int8Linear) -> None:
    """
    Refuse what a damaged checkpoint leaves in a layer.

    Raises:
        ValueError: for buffers of another shape or type, scales that are not positive numbers, and other devices.
    """
    expected = {
        "weight_int8": (torch.int8, (layer.out_features, layer.in_features)),
        "weight_scale": (torch.float32, (layer.out_features,)),
    }
    for part, (dtype, shape) in expected.items():
        buffer = getattr(layer, part)
        if (buffer.dtype, tuple(buffer.shape)) != (dtype, shape):
            raise ValueError(
                f"{name}.{part} is {buffer.dtype} of shape {tuple(buffer.shape)}; expected {dtype} of shape {shape}."
            )
        if buffer.device.type != "cpu":
            raise ValueError(
                f"{name}.{part} is on {buffer.device.type!r}; expected 'cpu', the device of 8-bit weights."
            )
    if not bool((layer.weight_scale.isfinite() & (layer.weight_scale > 0)).all()):
        raise ValueError(f"{name}.weight_scale holds numbers that are not scales; expected finite ones above 0.")
