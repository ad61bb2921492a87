"""Freezing a model by part, under names that readers of its configuration know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from ..validation import require

# Parts that have another name than their module.
PART_NAMES = {"prediction_network": "decoder"}
_BLOCKS = re.compile(r"encoder\.layers\.(\d+)(?:-(\d+))?")


class ParameterCount(NamedTuple):
    """
    Parameters of a model.

    Args:
        trainable: Those that training changes.
        total: All of them.
    """

    trainable: int
    total: int

    def __str__(self) -> str:
        return (
            f"{self.trainable:,} of {self.total:,} parameters ({100 * self.trainable / self.total:.2f} %) are trained"
        )


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters that are trained, and all."""
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return ParameterCount(trained, sum(parameter.numel() for parameter in parameters))


def freeze_parts(model: nn.Module, parts: Sequence[str]) -> None:
    """
    Exclude parts of a model from training; batch norms in them keep their statistics (see `hold_batch_norms`).

    Args:
        model: A model of this package.
        parts: `"encoder"`, `"encoder.subsampling"`, `"encoder.layers.0-8"` (the first nine blocks),
            `"encoder.layers.3"`, `"prediction_network"`, `"joint"`, `"ctc_head"`: names of modules in general.

    Raises:
        ValueError: for a part that the model does not have, with those that it has; and where nothing is left to
            train.
    """
    for part in parts:
        for module in _find_modules(model, part):
            module.requires_grad_(False)
    if parts and count_parameters(model).trainable == 0:
        raise ValueError(f"freeze={tuple(parts)!r} leaves nothing to train; expected fewer parts.")


def list_parts(model: nn.Module) -> list[str]:
    """List the parts that `freeze_parts` knows by name, without single blocks."""
    names = {module: part for part, module in PART_NAMES.items() if not hasattr(model, "token_head")}
    parts = []
    for name, module in model.named_children():
        if any(True for _ in module.parameters()):
            parts.append(names.get(name, name))
    encoder = getattr(model, "encoder", None)
    if encoder is not None:
        parts += [f"encoder.{name}" for name, _ in encoder.named_children() if name != "layers"]
        parts.append(f"encoder.layers.0-{len(encoder.layers) - 1}")
    return parts


def hold_batch_norms(model: nn.Module, only_frozen: bool) -> None:
    """
    Keep the running statistics of batch norms as they are in a model that is in training mode.

    Args:
        model: Any model.
        only_frozen: True for those whose own weights are frozen; False for all.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            is_frozen = not any(parameter.requires_grad for parameter in module.parameters())
            if is_frozen or not only_frozen:
                module.eval()


def _find_modules(model: nn.Module, part: str) -> Iterator[nn.Module]:
    known = list_parts(model)
    blocks = _BLOCKS.fullmatch(part) if isinstance(part, str) else None
    if blocks is not None:
        layers = model.get_submodule("encoder.layers")
        assert isinstance(layers, nn.ModuleList)
        first, last = int(blocks[1]), int(blocks[2] or blocks[1])
        require(
            first <= last < len(layers), "freeze", part, f"blocks of 0 to {len(layers) - 1}, such as {known[-1]!r}"
        )
        yield from layers[first : last + 1]
        return
    require(part in known, "freeze", part, f"some of {', '.join(known)}")
    yield model.get_submodule(PART_NAMES.get(part, part) if "token_head" not in dict(model.named_children()) else part)
