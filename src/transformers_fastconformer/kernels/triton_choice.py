"""Choice of the kernels in Triton: for tensors of a CUDA device, where Triton is installed and not switched off."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

from ..validation import require_choice

# "0" chooses the plain forms, for a comparison or where Triton cannot compile.
SWITCH = "TRANSFORMERS_FASTCONFORMER_TRITON"


@functools.cache
def has_triton() -> bool:
    """True if Triton is installed. It is imported only by the modules of `kernels.cuda`, in their first use."""
    return importlib.util.find_spec("triton") is not None


def takes_triton(tensor: torch.Tensor) -> bool:
    """
    True if kernels in Triton are to compute with a tensor.

    There is no way back after that: what Triton cannot compile is an error, not a slower form.

    Raises:
        ValueError: for a value of the switch that is not 0 or 1.
    """
    if tensor.device.type != "cuda" or torch.version.cuda is None:  # AMD's devices are "cuda" too
        return False
    switch = os.environ.get(SWITCH, "1")
    require_choice(SWITCH, switch, ("0", "1"))
    return switch == "1" and has_triton()
