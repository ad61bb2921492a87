"""8-bit inference of a loaded model on a CPU; nothing of the model itself changes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..kernels.int8_linear import has_int8_products, use_int8, uses_int8
from .block import FastConformerBlock
from .pretrained import FastConformerPreTrainedModel


def quantize_dynamic_int8(model: FastConformerPreTrainedModel) -> FastConformerPreTrainedModel:
    """
    Let the blocks of a model's encoder multiply with 8-bit weights and activations, from now on.

    Weights are rounded with a scale for each output, activations with one for each frame, so that the result of a clip
    depends on nothing else in its batch. The model keeps its parameters and its `state_dict`; the 8-bit weights are
    made from them at the first call, take a quarter of their memory in float32 besides, and are made anew when the
    parameters have changed (a change of single values through `.data` may go unseen: take 8 bits back and on again).
    A copy of the model computes as before, and so does this one in training, with gradients, under autocast and in
    graphs of `torch.compile` and `torch.export`.

    Args:
        model: Any model of this package, on a CPU, in float32 or bfloat16.

    Returns:
        The same model.

    Raises:
        ValueError: for a model on another device or of another dtype, and where torch has no 8-bit products.
    """
    if not has_int8_products():
        raise ValueError(
            f"torch {torch.__version__} has no exact 8-bit products on this CPU; expected oneDNN and, on x86, VNNI."
        )
    layers = list(find_block_linears(model))
    for layer in layers:
        device, dtype = layer.weight.device.type, layer.weight.dtype
        if device != "cpu" or dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(
                f"a model on {device!r} in {dtype} cannot use 8 bits; expected 'cpu' in float32 or bfloat16."
            )
    for layer in layers:
        use_int8(layer, True)
    return model


def remove_int8(model: FastConformerPreTrainedModel) -> FastConformerPreTrainedModel:
    """Let a model multiply as before `quantize_dynamic_int8`, and drop its 8-bit weights."""
    for layer in find_block_linears(model):
        use_int8(layer, False)
    return model


def is_int8(model: FastConformerPreTrainedModel) -> bool:
    """True if the blocks of a model's encoder multiply with 8 bits."""
    return any(uses_int8(layer) for layer in find_block_linears(model))


def find_block_linears(model: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers of the blocks of a model's encoder, nearly all of what it computes."""
    for block in model.modules():
        if isinstance(block, FastConformerBlock):
            for layer in block.modules():
                if type(layer) is nn.Linear:
                    yield layer
