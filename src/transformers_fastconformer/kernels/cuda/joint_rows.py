"""Rows of a joint network in Triton: what stands before and after its matrix products, each in one pass.

A row is a node of the lattice, (clip, frame, targets so far), named by its place in (batch, frames, nodes). A slice of
rows is computed as

    activate (Triton) -> product with the weight (cuBLAS) -> statistics (Triton)

and in the backward pass as

    activate -> product -> gradients of the outputs in place (Triton) -> two products (cuBLAS) -> sums (Triton).

The products stay with cuBLAS by this count. An output takes 2 * size operations, 1280 for the usual width of 640, and
in the separate form it is written once and read once: 8 bytes in float32, 4 in 16 bits. An H200 (4.8 TB/s; about 50
TFLOP/s in float32, 400 in TF32, 800 in bfloat16 at best) needs for the two passes 1.7 ps an output in float32 and 0.8
in bfloat16, for the product 25, 3.2 and 1.6. A product fused with the statistics could therefore save 7 %, a third or,
in bfloat16, a third of a forward pass, if it ran at the rate of cuBLAS; it runs below it in Triton, by about as much as
could be gained. The backward pass needs the gradient of an output in two products, of which each would have to compute
the outputs again (five products in place of four), or has to write it anyway. What can be saved are the seven passes
over a slice that the operations of the plain form make: here there are two.

Nothing is added by atomic operations: sums are the same from run to run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements that a program holds at a time, and classes of a tile of the softmax.
TILE = 2048
MAX_CLASSES = 1024
# Elements that the rows of a slice of outputs are aligned to: 32 bytes in 16 bits.
ALIGNMENT = 16
# Columns of a program that works on joint hidden states.
MAX_COLUMNS = 128
ACTIVATION_NUMBERS = {"relu": 0, "tanh": 1, "sigmoid": 2}


@triton.jit
def _scramble(keys):
    """The last step of MurmurHash3 on uint32, as in `losses.joint_dropout`."""
    keys = (keys ^ (keys >> 16)) * tl.full((), 0x85EBCA6B, tl.uint32)
    keys = (keys ^ (keys >> 13)) * tl.full((), 0xC2B2AE35, tl.uint32)
    return keys


@triton.jit
def _is_kept(row, column, seed, threshold):
    """The mask of `losses.joint_dropout` at rows (rows, 1) and columns (1, columns); the threshold is an unsigned one."""
    low = (row & 0xFFFFFFFF).to(tl.uint32) ^ seed
    low = _scramble(low)
    keys = (row >> 32).to(tl.uint32) ^ (low ^ (low >> 16))
    keys = _scramble(keys)
    keys = keys ^ (keys >> 16)
    hashed = _scramble(keys + column.to(tl.uint32) * tl.full((), 0x9E3779B1, tl.uint32))
    # The reference compares as signed numbers, which moves both sides by half the range.
    return (hashed ^ tl.full((), 0x80000000, tl.uint32)) >= threshold


@triton.jit
def _round(values, dtype: tl.constexpr):
    """Values in a dtype of as many bits or fewer, to the nearest."""
    if dtype.primitive_bitwidth < values.dtype.primitive_bitwidth:
        return values.to(dtype, fp_downcast_rounding="rtne")
    else:
        return values


@triton.jit
def _activate(sums, activation: tl.constexpr):
    if activation == 0:
        return tl.maximum(sums, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif activation == 1:
        decay = tl.exp(-2.0 * tl.abs(sums))
        size = (1.0 - decay) / (1.0 + decay)
        return tl.where(sums < 0, -size, size)
    else:
        return 1.0 / (1.0 + tl.exp(-sums))


@triton.jit
def _load_activations(
    frames, predictions, row, column, mask, num_frames, num_nodes, size: tl.constexpr, activation: tl.constexpr
):
    """Activations at rows (rows, 1) and columns (1, columns), rounded after each operation as torch rounds them."""
    frame = row // num_nodes
    prediction = frame // num_frames * num_nodes + row % num_nodes
    of_frames = tl.load(frames + frame * size + column, mask=mask, other=0.0)
    of_predictions = tl.load(predictions + prediction * size + column, mask=mask, other=0.0)
    precise = tl.float64 if frames.dtype.element_ty == tl.float64 else tl.float32
    sums = _round(of_frames.to(precise) + of_predictions.to(precise), frames.dtype.element_ty).to(precise)
    return _round(_activate(sums, activation), frames.dtype.element_ty).to(precise)


@triton.jit(do_not_specialize=["num_rows", "num_frames", "num_nodes", "seed", "threshold"])
def _hidden_kernel(
    hidden,  # (num_rows, size)
    rows,  # (num_rows,): places in (batch, frames, nodes)
    frames,  # (batch, frames, size)
    predictions,  # (batch, nodes, size)
    num_rows,
    num_frames,
    num_nodes,
    seed,
    threshold,
    size: tl.constexpr,
    scale: tl.constexpr,
    activation: tl.constexpr,
    has_dropout: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    index = (tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows))[:, None]
    column = (tl.program_id(1) * block_columns + tl.arange(0, block_columns))[None, :]
    mask = (index < num_rows) & (column < size)
    row = tl.load(rows + index, mask=index < num_rows, other=0)
    values = _load_activations(frames, predictions, row, column, mask, num_frames, num_nodes, size, activation)
    if has_dropout:
        is_kept = _is_kept(row, column, seed.to(tl.uint32), threshold.to(tl.uint32))
        factor = _round(tl.full((), scale, values.dtype), hidden.dtype.element_ty).to(values.dtype)
        values = tl.where(is_kept, values * factor, values * 0.0)
    tl.store(hidden + index * size + column, _round(values, hidden.dtype.element_ty), mask=mask)


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
    tl.store(outputs, _round(values * scale, outputs.dtype.element_ty), mask=mask)


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
        tl.store(outputs + num_tokens + duration, _round(shares * scale, outputs.dtype.element_ty), mask=is_output)
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


@triton.jit(do_not_specialize=["first_row", "end_row", "num_frames", "num_nodes", "seed", "threshold"])
def _frame_sum_kernel(
    frame_gradients,  # (batch, frames, size), to which sums over the nodes of each frame are added
    hidden_gradients,  # (rows of the slice, size): overwritten by the gradients of the sums of the joint network
    rows,  # of all slices
    rows_before,  # (batch * frames * nodes + 1,): rows at places before this one
    frames,
    predictions,
    first_row,  # of the slice
    end_row,
    num_frames,
    num_nodes,
    seed,
    threshold,
    size: tl.constexpr,
    scale: tl.constexpr,
    activation: tl.constexpr,
    has_dropout: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    frame = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(1) * block_columns + tl.arange(0, block_columns))[None, :]
    first = tl.maximum(tl.load(rows_before + frame * num_nodes), first_row)
    end = tl.minimum(tl.load(rows_before + (frame + 1) * num_nodes), end_row)
    if first < end:
        precise = frame_gradients.dtype.element_ty
        total = tl.zeros((block_rows, block_columns), precise)
        for start in range(first, end, block_rows):
            index = (start + tl.arange(0, block_rows)).to(tl.int64)[:, None]
            mask = (index < end) & (column < size)
            row = tl.load(rows + index, mask=index < end, other=0)
            values = _load_activations(frames, predictions, row, column, mask, num_frames, num_nodes, size, activation)
            place = hidden_gradients + (index - first_row) * size + column
            gradient = tl.load(place, mask=mask, other=0.0).to(values.dtype)
            if activation == 0:
                gradient = tl.where(values > 0, gradient, gradient * 0.0)
            elif activation == 1:
                gradient = gradient * (1.0 - values * values)
            else:
                gradient = gradient * values * (1.0 - values)
            if has_dropout:
                is_kept = _is_kept(row, column, seed.to(tl.uint32), threshold.to(tl.uint32))
                factor = _round(tl.full((), scale, values.dtype), frames.dtype.element_ty).to(values.dtype)
                gradient = tl.where(is_kept, gradient * factor, gradient * 0.0)
            tl.store(place, _round(gradient, hidden_gradients.dtype.element_ty), mask=mask)
            total += tl.where(mask, gradient, 0.0)
        place = frame_gradients + frame * size + column
        before = tl.load(place, mask=column < size, other=0.0)
        tl.store(place, before + tl.sum(total, 0)[None, :], mask=column < size)


@triton.jit(do_not_specialize=["first_row", "end_row", "num_frames", "num_nodes"])
def _prediction_sum_kernel(
    prediction_gradients,  # (batch, nodes, size), to which sums over the frames of each node are added
    hidden_gradients,
    rows,
    rows_before,
    first_row,
    end_row,
    num_frames,
    num_nodes,
    size: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    prediction = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(1) * block_columns + tl.arange(0, block_columns))[None, :]
    clip = prediction // num_nodes
    first = tl.maximum(tl.load(rows_before + clip * num_frames * num_nodes), first_row)
    end = tl.minimum(tl.load(rows_before + (clip + 1) * num_frames * num_nodes), end_row)
    if first < end:
        first_frame = (tl.load(rows + first) // num_nodes).to(tl.int32)
        end_frame = (tl.load(rows + end - 1) // num_nodes).to(tl.int32) + 1
        total = tl.zeros((block_rows, block_columns), prediction_gradients.dtype.element_ty)
        for start in range(first_frame, end_frame, block_rows):
            frame = (start + tl.arange(0, block_rows)).to(tl.int64)[:, None]
            place = frame * num_nodes + prediction % num_nodes
            index = tl.load(rows_before + place, mask=frame < end_frame, other=0)
            following = tl.load(rows_before + place + 1, mask=frame < end_frame, other=0)
            mask = (following > index) & (index >= first) & (index < end) & (column < size)
            gradient = tl.load(hidden_gradients + (index - first_row) * size + column, mask=mask, other=0.0)
            total += gradient.to(total.dtype)
        place = prediction_gradients + prediction * size + column
        before = tl.load(place, mask=column < size, other=0.0)
        tl.store(place, before + tl.sum(total, 0)[None, :], mask=column < size)


class JointRows:
    """
    What rows of a joint network need but its matrix products.

    Args:
        frames: (batch, frames, size), contiguous, as the other tensors.
        predictions: (batch, nodes, size).
        activation: `"relu"`, `"tanh"` or `"sigmoid"`.
        dropout: Share of activations that are dropped, with the masks of `losses.joint_dropout`.
        seed: A number below 2**32.
    """

    def __init__(self, frames: Tensor, predictions: Tensor, activation: str, dropout: float, seed: int) -> None:
        self.frames, self.predictions = frames, predictions
        self.num_frames, self.size = frames.shape[1:]
        self.num_nodes = predictions.shape[1]
        self.block_columns = min(triton.next_power_of_2(self.size), MAX_COLUMNS)
        self.block_rows = max(TILE // self.block_columns, 1)
        self.column_blocks = triton.cdiv(self.size, self.block_columns)
        # At a probability of 1 everything is dropped, which no threshold of 32 bits says: the scale is 0.
        self.dropout_numbers = (
            _as_signed(seed & 0xFFFFFFFF),
            _as_signed(min(round(dropout * 2**32), 2**32 - 1)),
        )
        self.forms = {
            "size": self.size,
            "scale": 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0,
            "activation": ACTIVATION_NUMBERS[activation],
            "has_dropout": dropout > 0,
        }

    def fill_hidden(self, hidden: Tensor, rows: Tensor) -> None:
        """Write the head's input, (rows, size), at rows, (rows,) in int64."""
        count = len(rows)
        _hidden_kernel[triton.cdiv(count, self.block_rows), self.column_blocks](
            *(hidden, rows, self.frames, self.predictions, count, self.num_frames, self.num_nodes),
            *self.dropout_numbers,
            **self.forms,
            block_rows=self.block_rows,
            block_columns=self.block_columns,
        )

    def add_to_frames(
        self, gradients: Tensor, hidden_gradients: Tensor, rows: Tensor, rows_before: Tensor, first: int, end: int
    ) -> None:
        """
        Turn gradients of the head's input at rows from `first` to `end` into those of the sums, and add them up.

        Args:
            gradients: (batch, frames, size), added to.
            hidden_gradients: (end - first, size), overwritten.
            rows: All rows, in rising order.
            rows_before: Rows before each place of (batch, frames, nodes), and their number at last, int32.
            first: Number of the first row of the slice.
            end: Number of the row after the last one.
        """
        block_rows = max(self.block_rows // 2, 1)
        _frame_sum_kernel[self.frames.shape[0] * self.num_frames, self.column_blocks](
            *(gradients, hidden_gradients, rows, rows_before, self.frames, self.predictions),
            *(first, end, self.num_frames, self.num_nodes, *self.dropout_numbers),
            **self.forms,
            block_rows=block_rows,
            block_columns=self.block_columns,
        )

    def add_to_predictions(
        self, gradients: Tensor, hidden_gradients: Tensor, rows: Tensor, rows_before: Tensor, first: int, end: int
    ) -> None:
        """Add up (batch, nodes, size) over frames, after `add_to_frames`, which has these arguments too."""
        _prediction_sum_kernel[self.predictions.shape[0] * self.num_nodes, self.column_blocks](
            *(gradients, hidden_gradients, rows, rows_before, first, end, self.num_frames, self.num_nodes),
            size=self.size,
            block_rows=self.block_rows,
            block_columns=self.block_columns,
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
            *(normalizers, blanks, labels, durations, outputs, self.bias, rows, self.label_ids, len(rows), *self.sizes),
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


def _as_signed(number: int) -> int:
    """A number of 32 bits as an int32 of the same bits, so that a kernel has one form for all of them."""
    return number - 2**32 if number >= 2**31 else number
