"""Hidden states of a joint network in Triton, at rows: before its matrix products, and after those of the gradient.

A row is a node of the lattice, (clip, frame, targets so far), named by its place in (batch, frames, nodes). Forwards,
frames and predictions are added, go through the activation and dropout, and are written once. Backwards, the gradient
goes back through both, which are computed again, and is added up over the nodes of each frame and over the frames of
each node. Nothing is added by atomic operations: sums are the same from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# Elements that a program holds at a time, and its columns.
TILE = 2048
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
    """The mask of `losses.joint_dropout` at rows (rows, 1) and columns (1, columns)."""
    low = (row & 0xFFFFFFFF).to(tl.uint32) ^ seed
    low = _scramble(low)
    keys = (row >> 32).to(tl.uint32) ^ (low ^ (low >> 16))
    keys = _scramble(keys)
    keys = keys ^ (keys >> 16)
    hashed = _scramble(keys + column.to(tl.uint32) * tl.full((), 0x9E3779B1, tl.uint32))
    # The reference compares as signed numbers, which moves both sides by half the range.
    return (hashed ^ tl.full((), 0x80000000, tl.uint32)) >= threshold


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
    sums = (of_frames.to(precise) + of_predictions.to(precise)).to(frames.dtype.element_ty).to(precise)
    return _activate(sums, activation).to(frames.dtype.element_ty).to(precise)


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
        factor = (tl.full((), scale, values.dtype)).to(hidden.dtype.element_ty).to(values.dtype)
        values = tl.where(is_kept, values * factor, values * 0.0)
    tl.store(hidden + index * size + column, values.to(hidden.dtype.element_ty), mask=mask)


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
                factor = (tl.full((), scale, values.dtype)).to(frames.dtype.element_ty).to(values.dtype)
                gradient = tl.where(is_kept, gradient * factor, gradient * 0.0)
            tl.store(place, gradient.to(hidden_gradients.dtype.element_ty), mask=mask)
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


class HiddenRows:
    """
    Passes over slices of the hidden states of a joint network.

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


def _as_signed(number: int) -> int:
    """A number of 32 bits as an int32 of the same bits, so that a kernel has one form for all of them."""
    return number - 2**32 if number >= 2**31 else number
