"""
Weights in 8 bits in the form that oneDNN multiplies: blocks for its registers, and a correction for each output.

oneDNN's own way into that form goes number by number and takes seconds for a large model. A form that is known is
filled by one copy instead: a shape is packed by oneDNN once, the copy must give the same bytes, and all weights of
that shape are then packed by the copy. A form that is not known (another machine, another torch) is oneDNN's to make.
"""

from __future__ import annotations

import ctypes
import functools

import torch

# Blocks of so many outputs by so many inputs, in which four inputs of an output stand next to one another.
BLOCK_OUTPUTS = 64
BLOCK_INPUTS = 64
INPUTS_TOGETHER = 4
# Forms that are kept, each as large as a weight; a model has four or five.
MAX_FORMS = 8


def pack_weight(rounded: torch.Tensor) -> torch.Tensor:
    """
    Pack a weight for `torch.ops.onednn.qlinear_pointwise`.

    Args:
        rounded: (out, in), int8, on the CPU; nothing of it is kept.
    """
    rounded = rounded.contiguous()  # oneDNN's own way misreads others
    outputs, inputs = rounded.shape
    form = _find_form(outputs, inputs)
    if form is None:
        return torch.ops.onednn.qlinear_prepack(rounded, None)
    packed = form.clone()
    _fill(packed, rounded)
    return packed


@functools.lru_cache(maxsize=MAX_FORMS)
def _find_form(outputs: int, inputs: int) -> torch.Tensor | None:
    """A packed weight of this shape to make copies of; None where `_fill` does not give oneDNN's bytes."""
    if outputs % BLOCK_OUTPUTS or inputs % BLOCK_INPUTS or not outputs or not inputs:
        return None
    generator = torch.Generator().manual_seed(outputs)
    sample = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, generator=generator, device="cpu")
    packed = torch.ops.onednn.qlinear_prepack(sample, None)
    try:
        found = _bytes_of(packed)
    except (AttributeError, RuntimeError):  # a torch that does not tell where they are
        return None
    if found.numel() != outputs * inputs + 4 * outputs:
        return None
    expected = found.clone()
    found.zero_()
    _fill(packed, sample)
    return packed if torch.equal(found, expected) else None


def _fill(packed: torch.Tensor, rounded: torch.Tensor) -> None:
    """Write a weight into the memory of a packed one of the known form."""
    if rounded.storage_offset() % INPUTS_TOGETHER:
        rounded = rounded.clone()
    memory = _bytes_of(packed)
    groups = rounded.view(torch.int32)  # (out, in / 4)
    blocks = groups.unflatten(0, (-1, BLOCK_OUTPUTS)).unflatten(2, (-1, BLOCK_INPUTS // INPUTS_TOGETHER))
    target = memory[: rounded.numel()].view(torch.int32)
    target.view(blocks.shape[0], blocks.shape[2], blocks.shape[3], blocks.shape[1]).copy_(blocks.permute(0, 2, 3, 1))
    # The unsigned activations are shifted, which the sum of an output's weights makes good; a product is a fast sum.
    sums = torch._int_mm(rounded, torch.ones(rounded.shape[1], 1, dtype=torch.int8, device="cpu"))  # (out, 1)
    torch.neg(sums[:, 0], out=memory[rounded.numel() :].view(torch.int32))


def _bytes_of(packed: torch.Tensor) -> torch.Tensor:
    """The memory of a packed weight, as long as it lives."""
    address, num_bytes = torch.ops.mkldnn.data_ptr(packed), torch.ops.mkldnn._nbytes(packed)
    return torch.frombuffer((ctypes.c_int8 * num_bytes).from_address(address), dtype=torch.int8)
