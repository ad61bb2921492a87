"""Dropout that is a function of the place: any slice of a joint network, computed again, has the same mask."""

from __future__ import annotations

import torch
from torch import Tensor

# Shifts and multipliers of MurmurHash3's last step; the step between columns is 2**32 over the golden ratio.
_STEPS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
_COLUMN_STEP = 0x9E3779B1
_MASK_32_BITS = 0xFFFFFFFF


def fill_dropout_mask(mask: Tensor, rows: Tensor, probability: float, seed: int) -> Tensor:
    """
    Fill a mask with 0 at dropped places and 1 / (1 - probability) elsewhere.

    The value at a place depends on the seed, the number of the row and the column, not on the device or on what else
    is asked for, so that there is nothing to store from the forward to the backward pass.

    Args:
        mask: (rows, columns), overwritten.
        rows: Numbers of the rows, (rows,), integers.
        probability: Share of places that are dropped, 0 to 1.
        seed: A number below 2**32.
    """
    if probability >= 1.0:
        return mask.zero_()
    keys = (rows.long() & _MASK_32_BITS) ^ (seed & _MASK_32_BITS)
    keys = ((rows.long() >> 32) ^ _scramble_wide(keys)) & _MASK_32_BITS
    columns = torch.arange(mask.shape[1], dtype=torch.int64, device=mask.device) * _COLUMN_STEP & _MASK_32_BITS
    hashed = _as_signed(_scramble_wide(keys))[:, None] + _as_signed(columns)  # int32, which wraps around
    for shift, multiplier in _STEPS:
        # A shift of a negative number brings in ones, which the hash must not have.
        shifted = (hashed >> shift).bitwise_and_(_MASK_32_BITS >> shift)
        hashed.bitwise_xor_(shifted).mul_(multiplier - 2**32)
    # The hash's last step changes the low bits only, which hardly matter below.
    threshold = round(probability * 2**32) - 2**31
    torch.ge(hashed, min(threshold, 2**31 - 1), out=mask)
    return mask.mul_(1.0 / (1.0 - probability))


def _scramble_wide(keys: Tensor) -> Tensor:
    """The same hash of 32 bits for few numbers, which are held in 64 bits."""
    for shift, multiplier in _STEPS:
        keys = ((keys ^ (keys >> shift)) * multiplier) & _MASK_32_BITS
    return keys ^ (keys >> 16)


def _as_signed(values: Tensor) -> Tensor:
    """Numbers of 32 bits as int32 of the same bits."""
    return torch.where(values >= 2**31, values - 2**32, values).to(torch.int32)
