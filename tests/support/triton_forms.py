"""Kernels in Triton in tests: on the GPU where there is one, elsewhere in Triton's interpreter (`conftest.py`)."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer.kernels.triton_choice import has_triton
from transformers_fastconformer.losses import fused_joint, lattice

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter (3.9) cuts digits of bfloat16 off where a GPU rounds to the nearest.
IS_CUT_OFF = {torch.bfloat16: DEVICE == "cpu"}
needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")


def choose_triton(monkeypatch: pytest.MonkeyPatch, is_chosen: bool) -> None:
    """Let the losses take the kernels, or the plain form, on any device."""
    for module in (fused_joint, lattice):
        monkeypatch.setattr(module, "takes_triton", lambda tensor: is_chosen)
