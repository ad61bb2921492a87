"""Rounding of values to a smaller type, in kernels of Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def round_to(values, dtype: tl.constexpr):
    """Values in a dtype of as many bits or fewer, to the nearest."""
    if dtype.primitive_bitwidth < values.dtype.primitive_bitwidth:
        return values.to(dtype, fp_downcastround_toing="rtne")
    else:
        return values
