"""Outputs of a joint network in Triton, by row: their statistics in one read, their gradient in one read and write.

A row is a node of the lattice, named by its place in (batch, frames, nodes). A slice of rows is computed as

    hidden states (Triton) -> product with the weight (cuBLAS) -> statistics (Triton)

and in the backward pass as

    hidden states -> product -> gradient of the outputs in place (Triton) -> two products (cuBLAS) -> sums (Triton)

The products stay with cuBLAS by this count, in which all rates are those of data sheets. An output takes 2 * size
operations, 1280 for the usual width of 640, and in this form it is written once and read once: 8 bytes in float32, 4
in 16 bits. An H200 (4.8 TB/s; 67 TFLOP/s in float32, 494 in TF32, 989 in bfloat16) needs for these bytes 1.7 ps an
output, 0.8 in 16 bits, and for the product 19, 2.6 and 1.3. A product that keeps its outputs to itself could save 8 %
of a forward pass in float32 and up to 40 % in the others, if it ran at the rate of cuBLAS. In Triton it runs below
that rate, by about as much as could be gained, and slices that fit the L2 cache save most of it without that. The
backward pass needs the gradient of an output in two products; each would have to compute the outputs again (five
products in place of four), or the gradient has to be written anyway. What is saved are the passes of plain operations
over a slice: eight after the product in the forward pass, where here is one.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# Elements that a program holds at a time, and classes of a tile of the softmax.
TILE = 2048
MAX_CLASSES = 1024
# Elements that the rows of a slice of outputs are aligned to: 32 bytes in 16 bits.
ALIGNMENT = 16


@triton.jit(do_not_specialize=["num_rows", "num_frames", "num_nodes"])
def _statistics_kernel(
    normalizers,  # (batch, frames, nodes), as all that is written
    blanks,
    labels,
    durations,  # (batch, frames, nodes, num_durations)
    outputs,  # (num_rows, num_tokens + num_durations), without the bias
    bias,
    rows,
    label_ids,  # (batch, nodes)
    num_rows,
    num_frames,
    num_nodes,
    blank_id: tl.constexpr,
    num_tokens: tl.constexpr,
    num_durations: tl.constexpr,
    row_stride: tl.constexpr,
    block_rows: tl.constexpr,
    block_classes: tl.constexpr,
    block_rest: tl.constexpr,
    block_durations: tl.constexpr,
):
    precise = normalizers.dtype.element_ty
    index = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    is_row = index < num_rows
    row = tl.load(rows + index, mask=is_row, other=0)
    outputs += index * row_stride
    top = tl.full((block_rows,), -3.0e38, precise)
    totals = tl.zeros((block_rows, block_classes), precise)
    for first in range(0, num_tokens // block_classes * block_classes, block_classes):
        token = first + tl.arange(0, block_classes)[None, :]
        values = tl.load(outputs[:, None] + token, mask=is_row[:, None], other=0.0).to(precise)
        values += tl.load(bias + token).to(precise)
        higher = tl.maximum(top, tl.max(values, 1))
        totals = totals * tl.exp(top - higher)[:, None] + tl.exp(values - higher[:, None])
        top = higher
    total = tl.sum(totals, 1)
    if num_tokens % block_classes != 0:
        token = num_tokens // block_classes * block_classes + tl.arange(0, block_rest)[None, :]
        is_token = token < num_tokens
        rest = tl.load(outputs[:, None] + token, mask=is_row[:, None] & is_token, other=float("-inf")).to(precise)
        rest += tl.load(bias + token, mask=is_token, other=0.0).to(precise)
        higher = tl.maximum(top, tl.max(rest, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(rest - higher[:, None]), 1)
        top = higher
    log_total = tl.log(total)
    blank = tl.load(outputs + blank_id, mask=is_row, other=0.0).to(precise) + tl.load(bias + blank_id).to(precise)
    label_id = tl.load(label_ids + row // num_nodes // num_frames * num_nodes + row % num_nodes, mask=is_row, other=0)
    label = tl.load(outputs + label_id, mask=is_row, other=0.0).to(precise)
    label += tl.load(bias + label_id, mask=is_row, other=0.0).to(precise)
    tl.store(normalizers + row, top + log_total, mask=is_row)
    tl.store(blanks + row, blank - top - log_total, mask=is_row)
    tl.store(labels + row, label - top - log_total, mask=is_row)
    if num_durations > 0:
        duration = tl.arange(0, block_durations)[None, :]
        is_duration = duration < num_durations
        mask = is_row[:, None] & is_duration
        values = tl.load(outputs[:, None] + num_tokens + duration, mask=mask, other=float("-inf")).to(precise)
        values += tl.load(bias + num_tokens + duration, mask=is_duration, other=0.0).to(precise)
        highest = tl.max(values, 1)[:, None]
        total_durations = tl.sum(tl.exp(values - highest), 1)[:, None]
        values = values - highest - tl.log(total_durations)
        tl.store(durations + row[:, None] * num_durations + duration, values, mask=mask)


@triton.jit
def _differentiate_tokens(
    outputs, bias, token, mask, bias_mask, of_row, blank_id: tl.constexpr, clamp: tl.constexpr, precise: tl.constexpr
):
    """Replace a tile of outputs by its gradient."""
    subtracted, of_blank, of_label, label_id, scale = of_row
    values = tl.load(outputs, mask=mask, other=0.0).to(precise) + tl.load(bias, mask=bias_mask).to(precise)
    values = tl.exp(values - subtracted)
    values -= tl.where(token == blank_id, of_blank, 0.0)
    values -= tl.where(token == label_id, of_label, 0.0)
    if clamp > 0:
        limit = tl.full((), clamp, precise)
        values = tl.clamp(values, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    tl.store(outputs, (values * scale).to(outputs.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_rows", "num_frames", "num_nodes"])
def _gradient_kernel(
    outputs,  # overwritten by their gradients
    bias,
    rows,
    label_ids,
    scales,  # (batch,)
    normalizers,
    of_blanks,  # (batch, frames, nodes): posteriors
    of_labels,
    of_durations,  # (batch, frames, nodes, num_durations)
    num_rows,
    num_frames,
    num_nodes,
    blank_id: tl.constexpr,
    num_tokens: tl.constexpr,
    num_durations: tl.constexpr,
    row_stride: tl.constexpr,
    clamp: tl.constexpr,
    block_rows: tl.constexpr,
    block_classes: tl.constexpr,
    block_rest: tl.constexpr,
    block_durations: tl.constexpr,
):
    precise = normalizers.dtype.element_ty
    index = (tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows))[:, None]
    is_row = index < num_rows
    row = tl.load(rows + index, mask=is_row, other=0)
    clip = row // num_nodes // num_frames
    scale = tl.load(scales + clip, mask=is_row, other=0.0).to(precise)
    of_blank = tl.load(of_blanks + row, mask=is_row, other=0.0)
    of_label = tl.load(of_labels + row, mask=is_row, other=0.0)
    total = of_blank + of_label
    # exp(output - normaliser) * total
    subtracted = tl.load(normalizers + row, mask=is_row, other=0.0) - tl.log(tl.where(is_row, total, 1.0))
    label_id = tl.load(label_ids + clip * num_nodes + row % num_nodes, mask=is_row, other=0)
    outputs += index * row_stride
    if num_durations > 0:
        duration = tl.arange(0, block_durations)[None, :]
        is_duration = duration < num_durations
        is_output = is_row & is_duration
        shares = tl.load(outputs + num_tokens + duration, mask=is_output, other=float("-inf")).to(precise)
        shares += tl.load(bias + num_tokens + duration, mask=is_duration, other=0.0).to(precise)
        shares = tl.exp(shares - tl.max(shares, 1)[:, None])
        shares = shares / tl.sum(shares, 1)[:, None] * total
        shares -= tl.load(of_durations + row * num_durations + duration, mask=is_output, other=0.0)
        tl.store(outputs + num_tokens + duration, (shares * scale).to(outputs.dtype.element_ty), mask=is_output)
    of_row = subtracted, of_blank, of_label, label_id, scale
    for first in range(0, num_tokens // block_classes * block_classes, block_classes):
        token = first + tl.arange(0, block_classes)[None, :]
        _differentiate_tokens(outputs + token, bias + token, token, is_row, None, of_row, blank_id, clamp, precise)
    if num_tokens % block_classes != 0:
        token = num_tokens // block_classes * block_classes + tl.arange(0, block_rest)[None, :]
        is_token = token < num_tokens
        _differentiate_tokens(
            *(outputs + token, bias + token, token, is_row & is_token, is_token, of_row, blank_id, clamp, precise)
        )


class OutputRows:
    """
    Passes over slices of outputs, (rows, tokens + durations), to which the bias was not added.

    Args:
        bias: (tokens + durations,).
        label_ids: The next label at each node, (batch, nodes) in int64; any token at the last one.
        num_frames: Frames of the padded batch.
        blank_id: Class of the blank.
        num_durations: 0 for RNN-T.
    """

    def __init__(self, bias: Tensor, label_ids: Tensor, num_frames: int, blank_id: int, num_durations: int) -> None:
        self.bias, self.label_ids = bias, label_ids
        self.sizes = num_frames, label_ids.shape[1]
        num_tokens = bias.shape[0] - num_durations
        # Tiles without a mask on classes, which are read 16 bytes at a time, and the rest.
        block_classes = min(1 << (num_tokens.bit_length() - 1), MAX_CLASSES)
        self.block_rows = max(TILE // block_classes, 1)
        self.num_outputs = bias.shape[0]
        self.row_stride = triton.cdiv(self.num_outputs, ALIGNMENT) * ALIGNMENT
        self.constants = {
            "blank_id": blank_id,
            "num_tokens": num_tokens,
            "num_durations": num_durations,
            "row_stride": self.row_stride,
            "block_rows": self.block_rows,
            "block_classes": block_classes,
            "block_rest": triton.next_power_of_2(max(num_tokens % block_classes, 1)),
            "block_durations": triton.next_power_of_2(max(num_durations, 1)),
        }

    def new_buffer(self, num_rows: int) -> Tensor:
        """A buffer of outputs, (num_rows, outputs), whose rows are aligned: products and loads are fast only then."""
        return self.bias.new_empty(num_rows, self.row_stride)[:, : self.num_outputs]

    def write_statistics(
        self, outputs: Tensor, rows: Tensor, normalizers: Tensor, blanks: Tensor, labels: Tensor, durations: Tensor
    ) -> None:
        """
        Write what the lattice and the backward pass need of each row.

        Args:
            outputs: (rows, outputs), of a `new_buffer`.
            rows: Places in (batch, frames, nodes), (rows,) in int64.
            normalizers: (batch, frames, nodes), written at the rows as the following: log of the sum of exponents.
            blanks: Log-probability of the blank.
            labels: Log-probability of the next label.
            durations: (batch, frames, nodes, durations), log-probabilities.
        """
        _statistics_kernel[(triton.cdiv(len(rows), self.block_rows),)](
            *(
                normalizers,
                blanks,
                labels,
                durations,
                outputs,
                self.bias,
                rows,
                self.label_ids,
                len(rows),
                *self.sizes,
            ),
            **self.constants,
        )

    def differentiate(
        self,
        outputs: Tensor,
        rows: Tensor,
        scales: Tensor,
        normalizers: Tensor,
        of_blanks: Tensor,
        of_labels: Tensor,
        of_durations: Tensor | None,
        clamp: float,
    ) -> None:
        """
        Replace outputs by the gradient of the loss with respect to them.

        Args:
            outputs: (rows, outputs), of a `new_buffer`, overwritten.
            rows: Places in (batch, frames, nodes), (rows,) in int64.
            scales: Factors of the clips, (batch,), applied after the clamp.
            normalizers: (batch, frames, nodes), as the following: from `write_statistics`.
            of_blanks: Posterior of the blank.
            of_labels: Posterior of the next label.
            of_durations: (batch, frames, nodes, durations), posteriors; None without durations.
            clamp: Largest magnitude of the gradient of a token; 0 for no limit.
        """
        if of_durations is None:
            of_durations = of_labels  # is not read
        _gradient_kernel[(triton.cdiv(len(rows), self.block_rows),)](
            *(outputs, self.bias, rows, self.label_ids, scales, normalizers, of_blanks, of_labels, of_durations),
            *(len(rows), *self.sizes),
            **self.constants,
            clamp=float(clamp),
        )
