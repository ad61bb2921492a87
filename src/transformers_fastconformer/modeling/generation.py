"""What decoding of the heads shares: refusing what is not finite, and the fast forms of the transducers' networks."""

from __future__ import annotations

import math
import weakref
from typing import Any, NamedTuple

import torch
from torch import nn

from ..decoding.cuda_graphs import GraphCache
from ..decoding.transducer_greedy import JointFunction, PredictFunction
from ..decoding.transducer_label_looping import ProjectFunction
from ..kernels.int8_linear import fingerprint_parameter
from ..kernels.layers import is_as_built
from ..kernels.transducer_networks import Joint, LSTMPredictor, Projection, StatelessPredictor
from .masking import lengths_to_mask

# Modules whose fast forms are known to compute the same. A subclass, an adapter or a quantised layer is none of them.
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
    Prediction and joint network as steps of greedy decoding take them, the latter without its projection of frames,
    which is `project`; where they may have CUDA graphs, those.
    """

    predict: PredictFunction
    joint: JointFunction
    project: ProjectFunction
    graphs: GraphCache | None = None


_derived: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], DecodingNetworks]] = weakref.WeakKeyDictionary()


def derive_decoding_networks(
    decoder: nn.Module, joint: nn.Module, containers: tuple[type[nn.Module], ...], blank_id: int
) -> DecodingNetworks | None:
    """
    Fast forms of a prediction and a joint network, made from their parameters and made anew when those have changed.

    Args:
        decoder: `embedding` and `lstm`, or `embeddings` and `norm`.
        joint: `decoder_proj`, `activation` and `head`.
        containers: The classes that the two may have.
        blank_id: Class of the blank.

    Returns:
        None where the modules are to be called as they are: in training, under autocast, with hooks, adapters,
        quantised layers or several dtypes or devices.
    """
    modules = [*decoder.modules(), *joint.modules()]
    parameters = [*decoder.parameters(), *joint.parameters()]
    if not _are_plain(modules, parameters, containers):
        return None
    fingerprint = tuple(fingerprint_parameter(parameter) for parameter in parameters)
    known = _derived.get(decoder)
    if known is not None and known[0] == fingerprint:
        return known[1]
    with torch.no_grad():
        networks = _build_networks(decoder, joint, blank_id)
    _derived[decoder] = (fingerprint, networks)
    return networks


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


def _build_networks(decoder: Any, joint: Any, blank_id: int) -> DecodingNetworks:
    projection = (joint.decoder_proj.weight.detach(), joint.decoder_proj.bias.detach())
    predict: PredictFunction
    if hasattr(decoder, "lstm"):
        layers = [
            tuple(getattr(decoder.lstm, f"{name}_l{layer}").detach() for name in _LSTM_PARAMETERS)
            for layer in range(decoder.lstm.num_layers)
        ]
        predict = LSTMPredictor(decoder.embedding.weight.detach(), layers, *projection)
    else:
        embeddings = [embedding.weight.detach() for embedding in decoder.embeddings]
        predict = StatelessPredictor(embeddings, decoder.norm is not None, *projection, blank_id)
    activation = type(joint.activation).__name__.lower()
    fast_joint = Joint(activation, joint.head.weight.detach(), joint.head.bias.detach())
    project = Projection(joint.encoder_proj.weight.detach(), joint.encoder_proj.bias.detach())
    return DecodingNetworks(predict, fast_joint, project, GraphCache())


_LSTM_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


# For what a model has computed from finite features.
OVERFLOW_HINT = " Such weights may need another dtype: float16 ends at 65504."


class FiniteCheck:
    """
    Refuses clips whose real frames hold NaN or an infinite value: decoded, they would be tokens without a meaning.

    On a CPU that is at once. Elsewhere `finish` does it, to be called when decoding has waited for the device anyway.

    Args:
        name: Of the values, for the message.
        values: (batch, frames, size).
        lengths: (batch,), frames of each clip that count; None for all of them.
        hint: End of the message: what may have made them so.

    Raises:
        ValueError: naming the clips.
    """

    def __init__(self, name: str, values: torch.Tensor, lengths: torch.Tensor | None, hint: str = "") -> None:
        self.name, self.hint = name, hint
        if values.device.type == "cpu" and math.isfinite(values.sum()):
            # Nothing to find, and read once: `isfinite` makes several copies. A sum that overflows goes on below.
            self.is_broken = torch.zeros(values.shape[0], dtype=torch.bool, device=values.device)
            return
        is_broken = ~torch.isfinite(values)
        if lengths is not None:
            is_broken &= lengths_to_mask(lengths.to(values.device), values.shape[1])[..., None]
        self.is_broken = is_broken.flatten(1).any(dim=1)  # (batch,)
        if values.device.type == "cpu":
            self.finish()

    def finish(self) -> None:
        """Raise where there is a reason."""
        clips = self.is_broken.nonzero()[:, 0].tolist()
        if clips:
            raise ValueError(
                f"{self.name} holds NaN or infinite values in clips {clips}; expected finite ones.{self.hint}"
            )
