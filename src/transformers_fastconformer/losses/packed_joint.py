"""A joint network at packed nodes, for CUDA: what `fused_joint` computes area by area, in slices across clips.

The nodes to visit, of all clips, are packed into one list, without padding and, in the backward pass, without those
that hardly any alignment crosses; a slice is a stretch of that list. Outputs are held by row, (rows, outputs). The
matrix products are torch's, everything between them is a kernel of `kernels.cuda`. The host waits for the
device once, to learn how many nodes the backward pass visits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .joint_slices import JointNetwork, NodePosteriors, NodeScores, count_rows


class _PackedSlices:
    """Buffers of a slice, and the outputs in them."""

    def __init__(self, network: JointNetwork, label_ids: Tensor, blank_id: int, num_durations: int) -> None:
        from ..kernels.cuda.joint_hidden import HiddenRows
        from ..kernels.cuda.joint_outputs import OutputRows

        frames = network.frames
        self.weight = network.weight
        self.dtype = torch.float64 if frames.dtype == torch.float64 else torch.float32
        self.is_rounded = frames.dtype != self.dtype
        form = network.form
        self.inputs = HiddenRows(
            frames.contiguous(),
            network.predictions.contiguous(),
            *(form.activation, form.dropout, form.dropout_seed or 0),
        )
        self.outputs = OutputRows(
            network.bias.contiguous(), label_ids.contiguous(), frames.shape[1], blank_id, num_durations
        )
        self.num_rows = count_rows(network)
        self.hidden_buffer = frames.new_empty(self.num_rows, frames.shape[2])
        self.output_buffer = self.outputs.new_buffer(self.num_rows)

    def compute(self, rows: Tensor) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """First and end of each slice of rows, the head's input and the outputs without bias, both by row."""
        for first in range(0, len(rows), self.num_rows):
            end = min(first + self.num_rows, len(rows))
            hidden, outputs = self.hidden_buffer[: end - first], self.output_buffer[: end - first]
            self.inputs.fill_hidden(hidden, rows[first:end])
            torch.mm(hidden, self.weight.t(), out=outputs)
            yield first, end, hidden, outputs


def score_packed_nodes(
    network: JointNetwork,
    label_ids: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    num_valid_nodes: int,
    blank_id: int,
    num_durations: int,
) -> NodeScores:
    """
    Compute the scores of all valid nodes.

    Args:
        network: The joint network.
        label_ids: The next label at each node, (batch, nodes); any token from the last one on.
        encoder_lengths: Valid frames of each clip, (batch,).
        target_lengths: Valid targets of each clip, (batch,).
        num_valid_nodes: Of all clips.
        blank_id: Class of the blank.
        num_durations: Outputs at the end that are durations; 0 for RNN-T.
    """
    shape = (*network.frames.shape[:2], network.predictions.shape[1])
    device = network.frames.device
    frame = torch.arange(shape[1], dtype=torch.int64, device=device)[None, :, None]
    node = torch.arange(shape[2], dtype=torch.int64, device=device)
    is_valid = (frame < encoder_lengths[:, None, None]) & (node <= target_lengths[:, None, None])
    rows, _ = pack_rows(is_valid, num_valid_nodes)
    slices = _PackedSlices(network, label_ids, blank_id, num_durations)
    normalizers, blank, labels = torch.zeros(3, *shape, dtype=slices.dtype, device=device)
    durations = torch.zeros(*shape, num_durations, dtype=slices.dtype, device=device)
    for first, end, _, outputs in slices.compute(rows):
        slices.outputs.write_statistics(outputs, rows[first:end], normalizers, blank, labels, durations)
    return NodeScores(normalizers, blank, labels, durations)


def differentiate_packed_nodes(
    network: JointNetwork,
    label_ids: Tensor,
    blank_id: int,
    clamp: float,
    normalizers: Tensor,
    posteriors: NodePosteriors,
    is_visited: Tensor,
    scales: Tensor,
    wants: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """
    Gradients of frames, predictions, weight and bias, those that are wanted.

    Args:
        network: The joint network.
        label_ids: The next label at each node, (batch, nodes); any token from the last one on.
        blank_id: Class of the blank.
        clamp: Largest magnitude of the gradient of a clip's loss with respect to a token output; 0 for no limit.
        normalizers: Of the scores.
        posteriors: Of the arcs of each node.
        is_visited: Nodes that add to the gradients, (batch, frames, nodes).
        scales: Gradients of the losses of the clips, (batch,).
        wants: True for each of the four whose gradient is wanted.
    """
    num_durations = 0 if posteriors.durations is None else posteriors.durations.shape[-1]
    slices = _PackedSlices(network, label_ids, blank_id, num_durations)
    rows, rows_before = pack_rows(is_visited, int(is_visited.sum()))  # the host waits here
    frames, predictions, weight, bias = (
        torch.zeros_like(tensor, dtype=slices.dtype, memory_format=torch.contiguous_format)
        for tensor in (network.frames, network.predictions, network.weight, network.bias)
    )
    # In 16 bits the gradients of outputs are rounded, so loss scaling comes after the products, as far as it is
    # the same for all clips.
    largest = scales.abs().amax() if len(scales) else scales.new_zeros(())
    shares = scales / largest.masked_fill(largest == 0, 1.0)
    hidden_gradient_buffer = torch.empty_like(slices.hidden_buffer) if wants[0] or wants[1] else None
    arguments = shares.contiguous(), normalizers, posteriors.blanks, posteriors.labels, posteriors.durations, clamp
    for first, end, hidden, outputs in slices.compute(rows):
        slices.outputs.differentiate(outputs, rows[first:end], *arguments)
        if wants[3]:
            bias += outputs.sum(0, dtype=slices.dtype)
        if wants[2] and slices.is_rounded:
            weight += torch.mm(outputs.t(), hidden)
        elif wants[2]:
            weight.addmm_(outputs.t(), hidden)
        if hidden_gradient_buffer is not None:
            hidden_gradients = hidden_gradient_buffer[: end - first]
            torch.mm(outputs, network.weight, out=hidden_gradients)
            places = hidden_gradients, rows, rows_before, first, end
            slices.inputs.add_to_frames(frames, *places)
            if wants[1]:
                slices.inputs.add_to_predictions(predictions, *places)
    results = zip(wants, (frames, predictions, weight, bias), strict=True)
    return tuple(gradient.mul_(largest) if is_wanted else None for is_wanted, gradient in results)


def pack_rows(is_row: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """
    List the places of a mask that are true, without a look at its values.

    Args:
        is_row: A mask of any shape.
        count: Its true values.

    Returns:
        Flat places of the true values in rising order, (count,), and how many of them come before each place and in
        all, (places + 1,) in int32
    """
    is_row = is_row.flatten()
    rows_before = F.pad(is_row.cumsum(0, dtype=torch.int32), (1, 0))
    # All others are written to one place after the end.
    index = rows_before[:-1].masked_fill(~is_row, count).long()
    rows = torch.empty(count + 1, dtype=torch.int64, device=is_row.device)
    rows.scatter_(0, index, torch.arange(len(is_row), dtype=torch.int64, device=is_row.device))
    return rows[:count], rows_before
