"""Records of what modules are made of, by which every live step can afford to see whether they still are that."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# A module's dictionary of parts, and the parts that were in it.
_Parts = tuple[dict[str, Any], dict[str, Any]]


class ModuleTree:
    """
    A module and all below it, as they are now: parts, parameters and buffers, none of them in training or with hooks.

    Values are not looked at. Changes of parameters in place are seen by torch's counter of versions, which those
    through `.data` leave as it is.

    Args:
        root: The module; it is not kept alive longer than this tree.
    """

    def __init__(self, root: nn.Module) -> None:
        self._modules = list(root.modules())
        self._parts: list[_Parts] = [
            (parts, dict(parts))
            for module in self._modules
            for parts in (module._modules, module._parameters, module._buffers)
            if parts
        ]
        tensors = [tensor for _, parts in self._parts for tensor in parts.values() if isinstance(tensor, torch.Tensor)]
        self._tensors = [(tensor, *_identify(tensor)) for tensor in tensors]

    def is_unchanged(self) -> bool:
        """True if all is as it was, and a call of each module does what its class says."""
        for module in self._modules:
            if module.training or module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
                return False
        for parts, known in self._parts:
            if parts is not known and (
                len(parts) != len(known) or any(parts.get(name) is not part for name, part in known.items())
            ):
                return False
        return all(
            tensor.data_ptr() == address and (version < 0 or tensor._version == version)
            for tensor, address, version in self._tensors
        )


def _identify(tensor: torch.Tensor) -> tuple[int, int]:
    """Address and version; -1 for a tensor of inference mode, which has no version."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version
