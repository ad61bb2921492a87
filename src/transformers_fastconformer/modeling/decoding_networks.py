"""Fast forms of the transducers' prediction and joint networks, made from the parameters of the modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, cast

import torch
from torch import nn

from ..decoding.cuda_graphs import MaskedLoop
from ..decoding.transducer_greedy import JointFunction, PredictFunction
from ..decoding.transducer_label_looping import ProjectFunction
from ..kernels.graph_cache import GraphCache
from ..kernels.layers import is_as_built
from ..kernels.parameter_cache import ParameterCache
from ..kernels.transducer_networks import Joint, LSTMPredictor, Projection, StatelessPredictor

# Modules whose fast forms are known to compute the same. Subclasses, adapters and quantised layers do not count.
_PLAIN_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Dropout,
    nn.Embedding,
    nn.LSTM,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
    nn.ReLU,
    nn.Sigmoid,
    nn.Tanh,
)


class DecodingNetworks(NamedTuple):
    """
    Prediction and joint network in the form that the steps of greedy decoding take.

    `joint` takes frames that `project` has projected. `graphs` holds CUDA graphs, where the networks may have them.
    """

    predict: PredictFunction
    joint: JointFunction
    project: ProjectFunction
    graphs: GraphCache[MaskedLoop] | None = None


_networks: ParameterCache[DecodingNetworks] = ParameterCache()


def derive_decoding_networks(
    decoder: nn.Module, joint: nn.Module, containers: tuple[type[nn.Module], ...], blank_id: int
) -> DecodingNetworks | None:
    """
    Derive fast forms of a prediction and a joint network from their parameters, again after each change of these.

    Args:
        decoder: Prediction network with `embedding` and `lstm`, or with `embeddings` and `norm`.
        joint: Joint network with `encoder_proj`, `decoder_proj`, `activation` and `head`.
        containers: The classes that the two may have.
        blank_id: Class of the blank.

    Returns:
        The fast forms, or None where the modules must be called as they are: in training, under autocast, with hooks,
        adapters, quantised layers or several dtypes or devices.
    """
    modules = [*decoder.modules(), *joint.modules()]
    parameters = [*decoder.parameters(), *joint.parameters()]
    if not _are_plain(modules, parameters, containers):
        return None
    return _networks.get(decoder, parameters, lambda: _build_networks(decoder, joint, blank_id))


def _are_plain(
    modules: list[nn.Module], parameters: list[nn.Parameter], containers: tuple[type[nn.Module], ...]
) -> bool:
    first = parameters[0]
    if first.is_meta or not first.is_floating_point() or torch.is_autocast_enabled(first.device.type):
        return False
    for module in modules:
        if module.training or not is_as_built(module) or type(module) not in (*_PLAIN_LAYERS, *containers):
            return False
    return all(
        type(parameter) is nn.Parameter and parameter.dtype == first.dtype and parameter.device == first.device
        for parameter in parameters
    )


class _JointModule(Protocol):
    encoder_proj: nn.Linear
    decoder_proj: nn.Linear
    activation: nn.Module
    head: nn.Linear


class _LSTMDecoder(Protocol):
    embedding: nn.Embedding
    lstm: nn.LSTM


class _StatelessDecoder(Protocol):
    embeddings: Iterable[nn.Embedding]
    norm: nn.LayerNorm | None


@torch.no_grad()
def _build_networks(decoder: nn.Module, joint_module: nn.Module, blank_id: int) -> DecodingNetworks:
    joint = cast(_JointModule, joint_module)
    projection = _weight_and_bias(joint.decoder_proj)
    predict: PredictFunction
    if hasattr(decoder, "lstm"):
        recurrent = cast(_LSTMDecoder, decoder)
        predict = LSTMPredictor(recurrent.embedding.weight.detach(), _lstm_weights(recurrent.lstm), *projection)
    else:
        stateless = cast(_StatelessDecoder, decoder)
        embeddings = [embedding.weight.detach() for embedding in stateless.embeddings]
        predict = StatelessPredictor(embeddings, stateless.norm is not None, *projection, blank_id)
    activation = type(joint.activation).__name__.lower()
    fast_joint = Joint(activation, *_weight_and_bias(joint.head))
    return DecodingNetworks(predict, fast_joint, Projection(*_weight_and_bias(joint.encoder_proj)), GraphCache())


def _weight_and_bias(layer: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.weight.detach(), layer.bias.detach()


def _lstm_weights(lstm: nn.LSTM) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Weights and biases of each layer, in the order of `LSTMPredictor`."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [tuple(getattr(lstm, f"{name}_l{layer}").detach() for name in names) for layer in range(lstm.num_layers)]
    return cast(list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]], weights)
