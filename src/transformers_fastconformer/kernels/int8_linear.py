"""
Matrix products with 8-bit weights and activations on a CPU, made from the parameters of linear layers.

Weights are rounded once for each output, activations in each call for each frame, both to the largest magnitude, so
that the result of a frame depends on no other frame. Sums are exact, so that every CPU computes the same bits. Where
the CPU multiplies 8-bit numbers the product is oneDNN's, which torch's own quantised layers use as well; elsewhere the
whole numbers are multiplied as floats, in the time that floats take.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .int8_packing import pack_weight
from .parameter_cache import ParameterCache

# Magnitudes are rounded to whole numbers up to this; activations are stored unsigned, so they are shifted.
LARGEST = 127
UNSIGNED_ZERO = 128
# Of activations and results.
INT8_DTYPES = (torch.float32, torch.bfloat16)
# Sums of whole numbers in float32 are exact up to this magnitude; the products of so many columns never exceed it.
MAX_EXACT_SUM = 2**24
EXACT_COLUMNS = 1024


@functools.cache
def has_int8_products() -> bool:
    """
    True if this build of torch multiplies 8-bit numbers on this CPU itself, and exactly.

    On x86 without VNNI oneDNN adds pairs of products in 16 bits, which are too few for them.
    """
    try:
        largest = torch.full((16, 512), LARGEST, dtype=torch.int8, device="cpu")
        product = PackedProduct(largest, torch.ones(16, dtype=torch.float32, device="cpu"))
        return bool((product(largest.float()) == 512 * LARGEST**2).all())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def round_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) of any floating dtype to whole numbers in int8 and the scale of each output in float32, (out,)."""
    weight = weight.detach().float()
    scale = weight_scale(weight)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def weight_scale(weight: torch.Tensor) -> torch.Tensor:
    """The step between the whole numbers that an output's weights are rounded to: (out,), float32."""
    largest = weight.detach().float().abs().amax(dim=1)
    return largest.clamp_(min=torch.finfo(torch.float32).tiny) / LARGEST


def round_rows(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., in) to whole numbers in float32, (rows, in), and the scale of each row in float32, (rows, 1)."""
    rows = states.reshape(-1, states.shape[-1]).float()
    largest = torch.maximum(rows.amax(dim=-1, keepdim=True), -rows.amin(dim=-1, keepdim=True))  # (rows, 1)
    scale = largest.clamp_(min=torch.finfo(torch.float32).tiny * LARGEST).div_(LARGEST)
    return torch.mul(rows, scale.reciprocal()).round_(), scale


class PackedProduct:
    """
    Product with a rounded weight in the form that oneDNN multiplies, on a CPU with `has_int8_products`.

    Args:
        rounded: (out, in), int8.
        scale: (out,), float32.
    """

    def __init__(self, rounded: torch.Tensor, scale: torch.Tensor) -> None:
        self.scale = scale
        self.zeros = torch.zeros(rounded.shape[0], dtype=torch.int32, device=rounded.device)
        self.packed = pack_weight(rounded)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Whole numbers in float32, (rows, in), to (rows, out) times the scale of each output."""
        return self.multiply(self.prepare(rows))

    @staticmethod
    def prepare(rows: torch.Tensor) -> torch.Tensor:
        """Whole numbers in float32 in the form that `multiply` reads."""
        # The conversion to signed integers is vectorised, the one to unsigned integers is not.
        return rows.to(torch.int8).view(torch.uint8).bitwise_xor_(UNSIGNED_ZERO)

    def multiply(self, unsigned: torch.Tensor) -> torch.Tensor:
        """The product of prepared rows."""
        return torch.ops.onednn.qlinear_pointwise(
            unsigned,
            1.0,
            UNSIGNED_ZERO,
            self.packed,
            self.scale,
            self.zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )


class FloatProduct:
    """
    The bits of `PackedProduct` on any CPU: the whole numbers are multiplied as floats, and their sums stay exact.

    The weight is kept in 8 bits and is a float only during the product.

    Args:
        rounded: (out, in), int8; it is kept.
        scale: (out,), float32.
    """

    def __init__(self, rounded: torch.Tensor, scale: torch.Tensor) -> None:
        self.rounded, self.scale = rounded, scale
        largest_sum = LARGEST * int(rounded.abs().sum(dim=1).max()) if rounded.numel() else 0
        self.columns = max(rounded.shape[1], 1) if largest_sum <= MAX_EXACT_SUM else EXACT_COLUMNS

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Whole numbers in float32, (rows, in), to (rows, out) times the scale of each output."""
        return self.multiply(self.prepare(rows))

    @staticmethod
    def prepare(rows: torch.Tensor) -> torch.Tensor:
        """Whole numbers as they are."""
        return rows

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        """The product of prepared rows."""
        if self.columns >= self.rounded.shape[1]:
            sums = rows @ self.rounded.float().t()
        else:
            parts = zip(rows.split(self.columns, dim=1), self.rounded.split(self.columns, dim=1), strict=True)
            sums = sum((part @ weight.float().t()).double() for part, weight in parts).float()  # type: ignore[union-attr]
        return sums.mul_(self.scale)


class Int8Weight:
    """
    The weight of a linear layer in 8 bits, ready for products.

    Args:
        weight: (out, in), of any floating dtype; or rounded already, in int8.
        scale: (out,), of a rounded one.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor | None = None) -> None:
        rounded, scale = round_weight(weight) if scale is None else (weight, scale)
        make_product = PackedProduct if has_int8_products() else FloatProduct
        self.product: PackedProduct | FloatProduct = make_product(rounded, scale)

    @property
    def is_copy(self) -> bool:
        """True if the rounded weight that was given is needed no more."""
        return isinstance(self.product, PackedProduct)

    def multiply(self, states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """(..., in) to (..., out), in the dtype of `states`, which may be float32 or bfloat16."""
        return self.multiply_all([self], states, [bias])[0]

    @staticmethod
    def multiply_all(
        weights: Sequence[Int8Weight], states: torch.Tensor, biases: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """The products of several weights with the same states, which are rounded once."""
        rows, scale = round_rows(states)
        prepared = weights[0].product.prepare(rows)
        outputs = []
        for weight, bias in zip(weights, biases, strict=True):
            output = weight.product.multiply(prepared).mul_(scale)
            if bias is not None:
                output += bias
            outputs.append(output.unflatten(0, states.shape[:-1]).to(states.dtype))
        return outputs


def multiply_rounded(
    states: torch.Tensor, rounded: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The same numbers as `Int8Weight.multiply`, from a weight that is not packed: plain, and for graphs."""
    rows, row_scale = round_rows(states)
    output = torch._int_mm(rows.to(torch.int8), rounded.t()).float() * scale * row_scale
    if bias is not None:
        output = output + bias
    return output.unflatten(0, states.shape[:-1]).to(states.dtype)


class Int8Linear(nn.Module):
    """
    A linear layer whose weight is stored in 8 bits: whole numbers, and a scale for each output.

    It computes what `quantize_dynamic_int8` lets an `nn.Linear` compute, for values only: not for gradients.

    Args:
        in_features, out_features: Sizes.
        has_bias: Add a bias, of the model's dtype.
    """

    weight_int8: torch.Tensor
    weight_scale: torch.Tensor

    def __init__(self, in_features: int, out_features: int, has_bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight_int8", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if has_bias else None
        self._packed: tuple[tuple[int, ...], Int8Weight] | None = None

    @classmethod
    def from_linear(cls, layer: nn.Linear) -> Int8Linear:
        """A layer with the weight of another, rounded; on the meta device one of the same shape without values."""
        has_bias = layer.bias is not None
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, has_bias)
        if not layer.weight.is_meta:
            made.weight_int8, made.weight_scale = round_weight(layer.weight)
        if has_bias:
            made.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        return made.train(layer.training)

    def to_linear(self, dtype: torch.dtype) -> nn.Linear:
        """A layer with the rounded weight as numbers of a floating dtype."""
        with torch.device("meta"):
            made = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        made.weight = nn.Parameter((self.weight_int8.float() * self.weight_scale[:, None]).to(dtype))
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().to(dtype))
        return made.train(self.training)

    def pack(self) -> Int8Weight:
        """The weight ready for products, made at the first call and when the buffers have changed."""
        state = tuple(
            part
            for buffer in (self.weight_int8, self.weight_scale)
            for part in (buffer.data_ptr(), -1 if buffer.is_inference() else buffer._version)
        )
        if self._packed is None or self._packed[0] != state:
            self._packed = (state, Int8Weight(self.weight_int8, self.weight_scale))
        return self._packed[1]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """
        (..., in) to (..., out)

        Raises:
            ValueError: in training, for states with gradients, and for states that are not on the CPU.
        """
        if self.training or (torch.is_grad_enabled() and states.requires_grad):
            raise ValueError(
                "a model whose weights are stored in 8 bits cannot be trained; expected evaluation without gradients "
                "(`model.eval()`, `torch.no_grad()`), or floating weights (`model.dequantize()`)."
            )
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack():
            return multiply_rounded(states, self.weight_int8, self.weight_scale, self.bias)
        if states.is_meta:
            return states.new_empty(*states.shape[:-1], self.out_features)
        if states.device.type != "cpu":
            raise ValueError(
                f"weights stored in 8 bits cannot be multiplied on {states.device.type!r}; expected 'cpu', or "
                "floating weights (`model.dequantize()`)."
            )
        if states.numel() == 0:
            return states.new_empty(*states.shape[:-1], self.out_features)
        return self.pack().multiply(states, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Int8Linear:
        """Move as any module does; the scales stay in float32 in every dtype of the model."""
        scale = self.weight_scale
        super()._apply(fn, recurse)
        if self.weight_scale.dtype != torch.float32:
            self.weight_scale = scale.to(self.weight_scale.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The state without the weight's ready form, which belongs to this machine and process."""
        return {**self.__dict__, "_packed": None}


# Stands on a layer, so that copies have it, too.
_MARK = "_multiplies_in_8_bits"
_weights: ParameterCache[Int8Weight] = ParameterCache()


def use_int8(layer: nn.Linear, is_used: bool) -> None:
    """Say that a layer is to be multiplied in 8 bits, or no longer."""
    if is_used:
        setattr(layer, _MARK, True)
    else:
        vars(layer).pop(_MARK, None)
        _weights.drop(layer)


def uses_int8(layer: nn.Module) -> bool:
    """True after `use_int8` was said of a layer."""
    return _MARK in vars(layer)


def int8_weight_of(layer: nn.Linear) -> Int8Weight:
    """The weight of a layer in 8 bits, made anew if the layer's has changed; `use_int8` need not be said of it."""
    return _weights.get(layer, (layer.weight,), lambda: Int8Weight(layer.weight))


def multiply_in_8_bits(layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """(..., in) to (..., out) with the `int8_weight_of` a layer."""
    return int8_weight_of(layer).multiply(states, layer.bias)


def ready_weight_of(layer: nn.Linear | Int8Linear) -> Int8Weight:
    """The weight of a layer that multiplies in 8 bits, rounded here or stored so."""
    return layer.pack() if isinstance(layer, Int8Linear) else int8_weight_of(layer)
