"""Slices of a joint network: its outputs at some nodes of one clip, and what their gradients give its inputs.

A slice is a rectangle of frames and nodes. All slices share the same buffers, so that there is never more of the
joint than one slice. Outputs are held by class, (outputs, rows): in this form the three matrix products of a slice run
at the full rate of a CPU, and what is done to each row is one operation over long runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..validation import is_number, require, require_choice
from .joint_dropout import fill_dropout_mask

ACTIVATIONS = ("relu", "tanh", "sigmoid")
# A slice that fits the cache of a CPU; elsewhere one that keeps the device busy.
SLICE_BYTES = {"cpu": 4 << 20}
SLICE_BYTES_ELSEWHERE = 128 << 20
# Below this the matrix products lose more than the cache gains.
MIN_ROWS = 256


class Area(NamedTuple):
    """Frames and nodes of one clip, both from and up to."""

    clip: int
    first_frame: int
    end_frame: int
    first_node: int
    end_node: int

    @property
    def of_nodes(self) -> tuple[int, slice, slice]:
        """Index into (batch, frames, nodes, ...)."""
        return self.clip, slice(self.first_frame, self.end_frame), slice(self.first_node, self.end_node)

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and nodes."""
        return self.end_frame - self.first_frame, self.end_node - self.first_node

    @property
    def num_rows(self) -> int:
        """Nodes of all the frames, frame by frame."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class JointForm:
    """
    Layers of a joint network that have no parameters.

    Args:
        activation: `"relu"`, `"tanh"` or `"sigmoid"`.
        dropout: Share of activations that are dropped.
        dropout_seed: Decides which ones; None: drawn from torch's default generator, anew in each loss.
    """

    activation: str = "relu"
    dropout: float = 0.0
    dropout_seed: int | None = None

    def __post_init__(self) -> None:
        require_choice("activation", self.activation, ACTIVATIONS)
        require(is_number(self.dropout) and 0 <= self.dropout <= 1, "dropout", self.dropout, "a probability")

    def with_seed(self) -> JointForm:
        """The same with a seed, where dropout needs one that was not given."""
        if self.dropout == 0 or self.dropout_seed is not None:
            return self
        return replace(self, dropout_seed=int(torch.randint(2**32, (), dtype=torch.int64, device="cpu")))


@dataclass(frozen=True)
class JointNetwork:
    """
    A joint network and its inputs: its outputs are `head(dropout(activation(frame + prediction)))` at every node.

    Args:
        frames: Projected encoder frames, (batch, frames, joint_hidden_size).
        predictions: Projected outputs of the prediction network, (batch, targets + 1, joint_hidden_size).
        weight: Of the head, (outputs, joint_hidden_size).
        bias: Of the head, (outputs,).
        form: Activation and dropout.
    """

    frames: Tensor
    predictions: Tensor
    weight: Tensor
    bias: Tensor
    form: JointForm = JointForm()

    @property
    def num_outputs(self) -> int:
        """Outputs at a node."""
        return self.weight.shape[0]


class NodeScores(NamedTuple):
    """Sums of the outputs of a joint network at every node; values at padding mean nothing."""

    normalizers: Tensor  # (batch, frames, nodes), log of the sum of exponents of the tokens
    blank: Tensor  # (batch, frames, nodes), log-probability
    labels: Tensor  # (batch, frames, nodes), of the next label
    durations: Tensor  # (batch, frames, nodes, durations), log-probabilities


class NodePosteriors(NamedTuple):
    """Probability that an alignment leaves a node by a blank, by the next label, and by an arc of each duration."""

    blanks: Tensor  # (batch, frames, nodes)
    labels: Tensor  # (batch, frames, nodes)
    durations: Tensor | None  # (batch, frames, nodes, durations)


def count_rows(network: JointNetwork) -> int:
    """Rows of a slice; those of a single frame may be more."""
    slice_bytes = SLICE_BYTES.get(network.frames.device.type, SLICE_BYTES_ELSEWHERE)
    return max(slice_bytes // (network.num_outputs * network.frames.element_size()), MIN_ROWS)


def list_areas(encoder_lengths: Sequence[int], target_lengths: Sequence[int], rows: int) -> Iterator[Area]:
    """All nodes of the clips without their padding, in areas of about so many rows."""
    for clip, (frames, targets) in enumerate(zip(encoder_lengths, target_lengths, strict=True)):
        step = max(rows // (targets + 1), 1)
        for first in range(0, frames, step):
            yield Area(clip, first, min(first + step, frames), 0, targets + 1)


def list_band_areas(clip: int, first_nodes: Sequence[int], end_nodes: Sequence[int], rows: int) -> Iterator[Area]:
    """
    Areas that hold a band of nodes of a clip.

    Args:
        clip: Number of the clip.
        first_nodes: First node of the band in each frame.
        end_nodes: End of the band in each frame; a frame in which it is not above the first node has none.
        rows: Most rows of an area of several frames.
    """
    area: Area | None = None
    for frame, (first_node, end_node) in enumerate(zip(first_nodes, end_nodes, strict=True)):
        if end_node <= first_node:
            continue
        if area is not None:
            wider = Area(
                clip, area.first_frame, frame + 1, min(area.first_node, first_node), max(area.end_node, end_node)
            )
            if wider.num_rows <= rows:
                area = wider
                continue
            yield area
        area = Area(clip, frame, frame + 1, first_node, end_node)
    if area is not None:
        yield area


class JointSlices:
    """
    Outputs of a joint network slice by slice, and the gradients of its inputs.

    Args:
        network: The joint network, all tensors in the dtype in which it is computed.
        rows: Rows of a slice; see `count_rows`.
    """

    def __init__(self, network: JointNetwork, rows: int) -> None:
        self.network = network
        self.num_nodes = network.predictions.shape[1]
        rows = max(rows, self.num_nodes)
        frames, num_outputs = network.frames, network.num_outputs
        self.dtype = torch.float64 if frames.dtype == torch.float64 else torch.float32
        self.is_rounded = frames.dtype != self.dtype
        self.bias = network.bias.to(self.dtype)[:, None]
        size = frames.shape[2]
        self.activation_buffer = frames.new_empty(rows * size)
        self.hidden_buffer = frames.new_empty(rows * size) if network.form.dropout > 0 else self.activation_buffer
        self.mask_buffer = frames.new_empty(rows * size) if network.form.dropout > 0 else None
        self.product_buffer = frames.new_empty(rows * num_outputs)
        self.output_buffer = (
            torch.empty(rows * num_outputs, dtype=self.dtype, device=frames.device)
            if self.is_rounded
            else self.product_buffer
        )

    def compute(self, area: Area) -> Tensor:
        """Outputs at the nodes of an area, (outputs, rows) in full precision; they may be overwritten."""
        hidden = self._compute_hidden(area)
        shape = (self.network.num_outputs, hidden.shape[0])
        product = _view(self.product_buffer, shape)
        torch.mm(self.network.weight, hidden.t(), out=product)
        outputs = product
        if self.is_rounded:
            outputs = _view(self.output_buffer, shape).copy_(product)
        return outputs.add_(self.bias)

    def _compute_hidden(self, area: Area) -> Tensor:
        """The head's input, (rows, joint_hidden_size)."""
        network, size = self.network, self.network.frames.shape[2]
        frames = network.frames[area.clip, area.first_frame : area.end_frame, None]
        predictions = network.predictions[area.clip, None, area.first_node : area.end_node]
        sums = _view(self.activation_buffer, (*area.shape, size))
        torch.add(frames, predictions, out=sums)
        if network.form.activation == "relu":
            sums.relu_()
        elif network.form.activation == "tanh":
            sums.tanh_()
        else:
            sums.sigmoid_()
        if self.mask_buffer is None:
            return sums.flatten(0, 1)
        mask = _view(self.mask_buffer, (area.num_rows, size))
        first_row = (area.clip * network.frames.shape[1] + area.first_frame) * self.num_nodes + area.first_node
        rows = torch.arange(area.shape[0], dtype=torch.int64, device=mask.device)[:, None] * self.num_nodes
        rows = rows + torch.arange(area.shape[1], dtype=torch.int64, device=mask.device) + first_row
        fill_dropout_mask(mask, rows.flatten(), network.form.dropout, network.form.dropout_seed or 0)
        return torch.mul(sums.flatten(0, 1), mask, out=_view(self.hidden_buffer, mask.shape))


class JointGradients:
    """
    Gradients of the inputs of a joint network, to which slices add; those that are not wanted are None.

    Args:
        slices: The joint network. A slice is added after it was computed and before the next one is.
        wants: True for each of frames, predictions, weight and bias whose gradient is wanted.
    """

    def __init__(self, slices: JointSlices, wants: Sequence[bool]) -> None:
        self.slices = slices
        network = slices.network
        self.frames, self.predictions, self.weight, self.bias = (
            torch.zeros(tensor.shape, dtype=slices.dtype, device=tensor.device) if is_wanted else None
            for is_wanted, tensor in zip(
                wants, (network.frames, network.predictions, network.weight, network.bias), strict=True
            )
        )
        reaches_inputs = self.frames is not None or self.predictions is not None
        self.hidden_buffer = torch.empty_like(slices.activation_buffer) if reaches_inputs else None

    def add(self, area: Area, gradient: Tensor, scale: float) -> None:
        """Add what the gradient of the outputs of an area, (outputs, rows), gives, multiplied by a number."""
        slices, network = self.slices, self.slices.network
        size = network.frames.shape[2]
        if self.bias is not None:
            self.bias.add_(gradient.sum(1), alpha=scale)
        if slices.is_rounded:
            gradient = _view(slices.product_buffer, gradient.shape).copy_(gradient)
        if self.weight is not None:
            hidden = _view(slices.hidden_buffer, (area.num_rows, size))
            if slices.is_rounded:
                self.weight.add_(torch.mm(gradient, hidden), alpha=scale)
            else:
                self.weight.addmm_(gradient, hidden, alpha=scale)
        if self.hidden_buffer is None:
            return
        hidden_gradient = _view(self.hidden_buffer, (area.num_rows, size))
        torch.mm(gradient.t(), network.weight, out=hidden_gradient)
        if slices.mask_buffer is not None:
            hidden_gradient.mul_(_view(slices.mask_buffer, hidden_gradient.shape))
        activations = _view(slices.activation_buffer, hidden_gradient.shape)  # overwritten
        if network.form.activation == "relu":
            hidden_gradient.mul_(activations.sign_())
        elif network.form.activation == "tanh":
            hidden_gradient.mul_(activations.square_().neg_().add_(1.0))
        else:
            hidden_gradient.addcmul_(hidden_gradient, activations, value=-1.0).mul_(activations)
        by_node = hidden_gradient.view(*area.shape, size)
        if self.frames is not None:
            total = by_node.sum(1, dtype=slices.dtype)
            self.frames[area.clip, area.first_frame : area.end_frame].add_(total, alpha=scale)
        if self.predictions is not None:
            total = by_node.sum(0, dtype=slices.dtype)
            self.predictions[area.clip, area.first_node : area.end_node].add_(total, alpha=scale)


def _view(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    """The start of a flat buffer in a shape."""
    count = 1
    for extent in shape:
        count *= extent
    return buffer[:count].view(*shape)
