"""The fast form of a prompted decoder, made from the parameters of its modules."""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.attention_decoder import AttentionDecoder, LayerTensors, LinearParameters, Parameters
from ..kernels.int8_linear import Int8Linear, uses_int8
from ..kernels.layers import is_as_built, is_reference
from ..kernels.parameter_cache import ParameterCache
from .multitask_decoder import (
    NORM_EPSILON,
    FastConformerDecoderLayer,
    FastConformerMultitaskDecoder,
    FastConformerTokenHead,
    FastConformerTransformerAttention,
    FastConformerTransformerFeedForward,
)

# Modules whose fast forms are known to compute the same. Subclasses, adapters and layers quantised by others do not
# count.
_PLAIN_MODULES = (
    FastConformerDecoderLayer,
    FastConformerMultitaskDecoder,
    FastConformerTokenHead,
    FastConformerTransformerAttention,
    FastConformerTransformerFeedForward,
    Int8Linear,
    nn.Embedding,
    nn.GELU,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
    nn.ReLU,
)

_decoders: ParameterCache[AttentionDecoder] = ParameterCache()
_decoders_in_8_bits: ParameterCache[AttentionDecoder] = ParameterCache()
_decoders_of_8_bits: ParameterCache[AttentionDecoder] = ParameterCache()  # of stored ones, whose weights they share


def derive_attention_decoder(
    decoder: FastConformerMultitaskDecoder, head: FastConformerTokenHead
) -> AttentionDecoder | None:
    """
    Derive the fast form of a decoder and its head from their parameters, again after each change of these.

    Returns:
        The fast form, or None where the modules must be called as they are: in training, with eager attention, under
        autocast, with hooks, adapters, layers quantised by others or in part, or several dtypes or devices.
    """
    parameters = [*decoder.parameters(), *head.parameters()]
    if is_reference(decoder.config) or not _are_plain([*decoder.modules(), *head.modules()], parameters):
        return None
    linears = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear | Int8Linear)]
    stored = [layer for layer in linears if isinstance(layer, Int8Linear)]
    if stored:
        # One row of each weight has the fingerprint of its place; reading it all would bring it back into memory.
        tensors = [tensor for layer in stored for tensor in (layer.weight_int8[:1], layer.weight_scale)]
        if len(stored) < len(linears) or any(tensor.device.type != "cpu" for tensor in [*parameters, *tensors]):
            return None
        return _decoders_of_8_bits.get(decoder, [*parameters, *tensors], lambda: _build(decoder, head, False))
    in_8_bits = {uses_int8(layer) for layer in linears}
    if len(in_8_bits) > 1:
        return None
    decoders = _decoders_in_8_bits if in_8_bits == {True} else _decoders
    return decoders.get(decoder, parameters, lambda: _build(decoder, head, in_8_bits == {True}))


def _are_plain(modules: list[nn.Module], parameters: list[nn.Parameter]) -> bool:
    first = parameters[0]
    if first.is_meta or not first.is_floating_point() or torch.is_autocast_enabled(first.device.type):
        return False
    if any(module.training or not is_as_built(module) or type(module) not in _PLAIN_MODULES for module in modules):
        return False
    return all(
        type(parameter) is nn.Parameter and parameter.dtype == first.dtype and parameter.device == first.device
        for parameter in parameters
    )


@torch.no_grad()
def _build(
    decoder: FastConformerMultitaskDecoder, head: FastConformerTokenHead, is_in_8_bits: bool
) -> AttentionDecoder:
    config = decoder.config
    weight = decoder.embedding.weight.detach()
    return AttentionDecoder(
        embedding=weight,
        positions=decoder.position_table(weight.dtype, weight.device).detach(),
        norm_embedding=_parameters(decoder.norm_embedding),
        layers=[_layer_tensors(layer) for layer in decoder.layers if isinstance(layer, FastConformerDecoderLayer)],
        norm=None if decoder.norm is None else _parameters(decoder.norm),
        head_bias=head.bias.detach(),
        num_heads=config.num_decoder_attention_heads,
        is_pre_norm=config.decoder_pre_norm,
        activation=config.decoder_activation,
        epsilon=NORM_EPSILON,
        is_in_8_bits=is_in_8_bits,
    )


def _layer_tensors(layer: FastConformerDecoderLayer) -> LayerTensors:
    tokens, frames = layer.self_attn, layer.cross_attn
    return LayerTensors(
        norm_tokens=_parameters(layer.norm_self_attn),
        query=_linear(tokens.q_proj),
        key=_linear(tokens.k_proj),
        value=_linear(tokens.v_proj),
        output=_linear(tokens.o_proj),
        norm_frames=_parameters(layer.norm_cross_attn),
        frames_query=_linear(frames.q_proj),
        frames_key=_linear(frames.k_proj),
        frames_value=_linear(frames.v_proj),
        frames_output=_linear(frames.o_proj),
        norm_feed_forward=_parameters(layer.norm_feed_forward),
        inner=_linear(layer.feed_forward.linear1),
        outer=_linear(layer.feed_forward.linear2),
    )


def _linear(layer: nn.Linear | Int8Linear) -> LinearParameters:
    assert layer.bias is not None
    return layer.pack() if isinstance(layer, Int8Linear) else layer.weight.detach(), layer.bias.detach()


def _parameters(layer: nn.LayerNorm) -> Parameters:
    return layer.weight.detach(), layer.bias.detach()
