"""8-bit inference of a loaded model on a CPU; nothing of the model itself changes (`int8_quantizer.py` changes it)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..kernels.int8_linear import INT8_DTYPES, Int8Linear, use_int8, uses_int8
from .block import FastConformerBlock
from .multitask_decoder import FastConformerDecoderLayer
from .pretrained import FastConformerPreTrainedModel
from .transformer import FastConformerTransformerEncoderLayer

# Layers whose products are in 8 bits.
BLOCKS = (FastConformerBlock, FastConformerDecoderLayer, FastConformerTransformerEncoderLayer)


def quantize_dynamic_int8(model: FastConformerPreTrainedModel) -> FastConformerPreTrainedModel:
    """
    Let the blocks of a model's encoder, and the layers of a transformer after it, multiply with 8-bit weights and
    activations, from now on.

    Weights are rounded with a scale for each output, activations with one for each frame, so that the result of a clip
    depends on nothing else in its batch. The model keeps its parameters and its `state_dict`; the 8-bit weights are
    made from them at the first call, take a quarter of their memory in float32 besides, and are made anew when the
    parameters have changed (a change of single values through `.data` may go unseen: take 8 bits back and on again).
    A CPU that does not multiply 8-bit numbers itself (x86 without VNNI) computes the same products in the time of
    float32. On one that multiplies in bfloat16, attention computes in it, next to blocks in 8 bits.
    Copies of the model, by `copy` or `pickle`, do so too; a checkpoint that it saves has its floating weights. It
    computes as before in training, with gradients, under autocast and in graphs of `torch.compile` and
    `torch.export`.

    Args:
        model: Any model of this package, on a CPU, in float32 or bfloat16.

    Returns:
        The same model.

    Raises:
        ValueError: for a model on another device or of another dtype.
    """
    layers = list(find_block_linears(model))
    for layer in layers:
        device, dtype = layer.weight.device.type, layer.weight.dtype
        if device != "cpu" or dtype not in INT8_DTYPES:
            raise ValueError(
                f"a model on {device!r} in {dtype} cannot use 8 bits; expected 'cpu' in float32 or bfloat16."
            )
    for layer in layers:
        use_int8(layer, True)
    return model


def remove_int8(model: FastConformerPreTrainedModel) -> FastConformerPreTrainedModel:
    """
    Let a model multiply as before `quantize_dynamic_int8`, and drop its 8-bit weights.

    Raises:
        ValueError: for a model whose weights are stored in 8 bits, which has no others.
    """
    if is_stored_in_8_bits(model):
        raise ValueError(
            f"the weights of this {type(model).__name__} are stored in 8 bits; expected a model after "
            "quantize_dynamic_int8. `model.dequantize()` makes floating weights of the rounded ones."
        )
    for layer in find_block_linears(model):
        use_int8(layer, False)
    return model


def is_int8(model: FastConformerPreTrainedModel) -> bool:
    """True if the blocks of a model's encoder multiply with 8 bits."""
    return is_stored_in_8_bits(model) or any(uses_int8(layer) for layer in find_block_linears(model))


def is_stored_in_8_bits(model: nn.Module) -> bool:
    """True if a model holds 8-bit weights in place of floating ones, see [`FastConformerInt8Config`]."""
    return any(isinstance(layer, Int8Linear) for layer in model.modules())


def find_block_linears(model: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers of a model's blocks, of its encoder and of transformers after it: nearly all it computes."""
    for block in model.modules():
        if isinstance(block, BLOCKS):
            for layer in block.modules():
                if type(layer) is nn.Linear:
                    yield layer
