"""The configuration of 8-bit weights, as it stands in `config.json` and as a call of `from_pretrained` has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..validation import require

METHOD = "fastconformer_int8"
# Transformers takes the configuration of the checkpoint, and nothing of the one that a call gives.
_is_dequantization_asked: ContextVar[bool] = ContextVar("is_dequantization_asked", default=False)


@register_quantization_config(METHOD)
class FastConformerInt8Config(QuantizationConfigMixin):
    """
    Ask `from_pretrained` for the encoder's blocks in 8 bits, or describe a checkpoint that is stored so.

    The model computes what [`quantize_dynamic_int8`] lets it compute, and holds the rounded weights in place of the
    floating ones: it is a quarter as large, can be saved, and cannot be trained.

    Args:
        dequantize: Load floating weights: those of a checkpoint stored in 8 bits are made of the rounded ones, for
            devices and CPUs without 8-bit products, and for training.
        quant_method: Name of the form in `config.json`.
    """

    def __init__(self, dequantize: bool = False, quant_method: str = METHOD) -> None:
        require(isinstance(dequantize, bool), "dequantize", dequantize, "True or False")
        require(quant_method == METHOD, "quant_method", quant_method, repr(METHOD))
        self.quant_method = quant_method  # type: ignore[assignment]
        self.dequantize = dequantize

    def to_dict(self) -> dict[str, Any]:
        """The facts about the stored form; `dequantize` is a choice of a call."""
        return {"quant_method": self.quant_method}


def is_int8_config(value: Any) -> bool:
    """True for the `quantization_config` of a model's configuration if it is of this form, as an object or as JSON."""
    method = value.get("quant_method") if isinstance(value, dict) else getattr(value, "quant_method", None)
    return method == METHOD


def is_dequantization_asked() -> bool:
    """True inside `dequantizing` with options that ask for floating weights."""
    return _is_dequantization_asked.get()


@contextmanager
def dequantizing(options: dict[str, Any]) -> Iterator[None]:
    """Take the wish for floating weights out of the options of a `from_pretrained`, and follow it inside the block."""
    given = options.get("quantization_config")
    is_asked = isinstance(given, FastConformerInt8Config) and given.dequantize
    if is_asked:
        del options["quantization_config"]
    token = _is_dequantization_asked.set(is_asked)
    try:
        yield
    finally:
        _is_dequantization_asked.reset(token)
