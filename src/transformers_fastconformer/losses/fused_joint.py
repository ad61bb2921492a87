"""RNN-T and TDT losses from the inputs of the joint network, whose outputs are never held whole.

The forward pass computes the joint slice by slice, over the valid nodes of each clip only, and keeps of a node its
normaliser and the log-probabilities that leave it. The sum over all alignments turns these into posteriors: of the
blank, of the next label and of each duration, which with the normaliser are all that a node keeps for the backward
pass. That one computes the slices again and adds up the gradients of frames, predictions, weight and bias.

On a CUDA device with Triton the nodes of all clips are packed, and kernels do what stands between the matrix products
(`packed_joint`); what stands here is the form for every device, and the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..kernels.triton_choice import takes_triton
from ..validation import is_number, require
from .joint_slices import (
    Area,
    JointForm,
    JointGradients,
    JointNetwork,
    JointSlices,
    NodePosteriors,
    NodeScores,
    count_rows,
    list_areas,
    list_band_areas,
)
from .lattice import check_durations, check_targets, fill_padding, reduce_losses, sum_alignments
from .packed_joint import differentiate_packed_nodes, score_packed_nodes

# A node whose posterior is below this share of the rounding of 1 is left out of the backward pass: all that it could
# change in a gradient is far below what rounding changes.
_POSTERIOR_SHARE = 1.0 / 256.0


@dataclass(frozen=True)
class _Lattice:
    """Arcs of the lattice and the weights of the loss; `num_durations` is 0 for RNN-T."""

    blank_id: int
    blank_durations: tuple[int, ...]
    label_durations: tuple[int, ...]
    num_durations: int
    sigma: float
    fastemit_lambda: float
    clamp: float

    @property
    def blank_outputs(self) -> list[int]:
        """Duration outputs that a blank may have: those above 0."""
        return [index for index, duration in enumerate(self.label_durations) if duration > 0]


def fused_rnnt_loss(
    network: JointNetwork,
    targets: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_id: int,
    reduction: str = "mean_batch",
    fastemit_lambda: float = 0.0,
    clamp: float = 0.0,
) -> Tensor:
    """`rnnt_loss` of a joint network's outputs, of which no more than a slice exists at a time.

    Value and gradient are those of `rnnt_loss`. Under autocast, and for inputs in 16 bits, the joint network is
    computed in 16 bits as it is by its module; all else is float32 (float64 for float64 inputs).

    Args:
        network: The joint network with its inputs.
        targets: Token ids, (batch, targets). Values beyond `target_lengths` are not looked at; -100 is fine there.
        encoder_lengths: Valid frames of each clip, (batch,).
        target_lengths: Valid targets of each clip, (batch,). May be zero.
        blank_id: Index of the blank among the tokens.
        reduction: As in `rnnt_loss`.
        fastemit_lambda: As in `rnnt_loss`.
        clamp: Largest magnitude of the gradient of a clip's loss with respect to a token output, before the reduction
            scales it, as in NeMo's CUDA losses (NeMo 3.0 on a CPU clamps after it); 0 for no limit.

    Returns:
        A scalar, or (batch,) for `none`.

    Raises:
        ValueError: for shapes, lengths, ids and options that do not fit together.
    """
    lattice = _Lattice(blank_id, (1,), (0,), 0, 0.0, fastemit_lambda, clamp)
    return _compute(network, targets, encoder_lengths, target_lengths, reduction, lattice)


def fused_tdt_loss(
    network: JointNetwork,
    targets: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_id: int,
    durations: Sequence[int],
    sigma: float = 0.0,
    omega: float = 0.0,
    reduction: str = "mean_batch",
    fastemit_lambda: float = 0.0,
    clamp: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`tdt_loss` of a joint network's outputs, of which no more than a slice exists at a time.

    Value and gradient are those of `tdt_loss`; precision is that of `fused_rnnt_loss`.

    Args:
        network: The joint network with its inputs; its outputs are the tokens and after them the durations.
        targets: Token ids, (batch, targets). Values beyond `target_lengths` are not looked at; -100 is fine there.
        encoder_lengths: Valid frames of each clip, (batch,).
        target_lengths: Valid targets of each clip, (batch,). May be zero.
        blank_id: Index of the blank among the tokens.
        durations: The duration in frames that each duration output stands for.
        sigma: As in `tdt_loss`.
        omega: As in `tdt_loss`.
        reduction: As in `tdt_loss`.
        fastemit_lambda: As in `tdt_loss`.
        clamp: As in `fused_rnnt_loss`; duration outputs have no limit, as in NeMo 3.0.
        generator: As in `tdt_loss`.

    Returns:
        A scalar, or (batch,) for `none`.

    Raises:
        ValueError: for shapes, lengths, ids and options that do not fit together.
    """
    values = check_durations(durations)
    if omega and float(torch.rand((), generator=generator, dtype=torch.float32, device="cpu")) < omega:
        num_tokens = network.num_outputs - len(values)
        network = replace(network, weight=network.weight[:num_tokens], bias=network.bias[:num_tokens])
        return fused_rnnt_loss(
            network, targets, encoder_lengths, target_lengths, blank_id, reduction, fastemit_lambda, clamp
        )
    positive = tuple(value for value in values if value > 0)
    lattice = _Lattice(blank_id, positive, values, len(values), sigma, fastemit_lambda, clamp)
    return _compute(network, targets, encoder_lengths, target_lengths, reduction, lattice)


@torch.compiler.disable  # the sizes of slices are values
def _compute(
    network: JointNetwork,
    targets: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    reduction: str,
    lattice: _Lattice,
) -> Tensor:
    num_tokens = network.num_outputs - lattice.num_durations
    _check_network(network, targets)
    lengths = check_targets(
        *("frames", network.frames, targets, encoder_lengths, target_lengths, lattice.blank_id, num_tokens, reduction)
    )
    require(is_number(lattice.clamp) and lattice.clamp >= 0, "clamp", lattice.clamp, "a number of 0 or more")
    frames, predictions, weight, bias = network.frames, network.predictions, network.weight, network.bias
    device_type = network.frames.device.type
    if torch.is_autocast_enabled(device_type) and network.frames.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
        frames, predictions, weight, bias = (tensor.to(dtype) for tensor in (frames, predictions, weight, bias))
    encoder_lengths, target_lengths = encoder_lengths.long(), target_lengths.long()
    padded_targets = F.pad(fill_padding(targets, target_lengths), (0, 1))  # (batch, targets + 1)
    losses = _FusedJointLosses.apply(
        *(frames, predictions, weight, bias, network.form.with_seed()),
        padded_targets,
        encoder_lengths,
        target_lengths,
        lengths,
        lattice,
    )
    if lattice.fastemit_lambda:
        losses = losses + lattice.fastemit_lambda * losses.detach()
    return reduce_losses(losses, target_lengths, reduction)


def _check_network(network: JointNetwork, targets: Tensor) -> None:
    """Refuse tensors of a joint network that do not fit one another."""
    shapes = [tuple(tensor.shape) for tensor in (network.frames, network.predictions, network.weight, network.bias)]
    batch, _, size = shapes[0] if len(shapes[0]) == 3 else (-1, -1, -1)
    expected = [shapes[0], (batch, targets.shape[-1] + 1, size), (network.num_outputs, size), (network.num_outputs,)]
    if targets.dim() != 2 or shapes != expected:
        raise ValueError(
            f"frames, predictions, weight and bias of shapes {shapes} and targets of shape {tuple(targets.shape)} do "
            "not fit; expected (batch, frames, size), (batch, targets + 1, size), (outputs, size), (outputs,) and "
            "(batch, targets)."
        )


class _FusedJointLosses(torch.autograd.Function):
    """Losses of the clips, (batch,), before FastEmit scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        frames: Tensor,
        predictions: Tensor,
        weight: Tensor,
        bias: Tensor,
        form: JointForm,
        targets: Tensor,
        encoder_lengths: Tensor,
        target_lengths: Tensor,
        lengths: tuple[list[int], list[int]],  # the same on the host
        lattice: _Lattice,
    ) -> Tensor:
        network = JointNetwork(frames, predictions, weight, bias, form)
        with torch.autocast(frames.device.type, enabled=False):
            if takes_triton(frames):
                num_nodes = sum(count * (labels + 1) for count, labels in zip(*lengths, strict=True))
                arguments = targets, encoder_lengths, target_lengths, num_nodes
                scores = score_packed_nodes(network, *arguments, lattice.blank_id, lattice.num_durations)
            else:
                scores = _score_nodes(network, targets, *lengths, lattice)
        normalizers, blank, labels, durations = scores
        del scores
        blank_arcs, label_arcs = blank[..., None], labels[:, :, :-1, None]
        if lattice.num_durations:
            of_outputs = [durations[..., index] for index in lattice.blank_outputs]
            blank_arcs = blank_arcs - lattice.sigma + torch.stack(of_outputs, dim=-1)
            del of_outputs
            label_arcs = label_arcs - lattice.sigma + durations[:, :, :-1]
        del blank, labels, durations
        need_posteriors = any(ctx.needs_input_grad[:4])
        sums = sum_alignments(
            blank_arcs,
            label_arcs,
            encoder_lengths,
            target_lengths,
            lattice.blank_durations,
            lattice.label_durations,
            need_posteriors,
        )
        if sums.blank_posteriors is not None and sums.label_posteriors is not None:
            of_blanks = sums.blank_posteriors
            of_labels = F.pad(sums.label_posteriors * (1.0 + lattice.fastemit_lambda), (0, 0, 0, 1))
            of_durations = None
            if lattice.num_durations:
                of_durations = of_labels.clone()
                for place, index in enumerate(lattice.blank_outputs):  # a list as an index waits for the device
                    of_durations[..., index] += of_blanks[..., place]
            posteriors = NodePosteriors(of_blanks.sum(-1), of_labels.sum(-1), of_durations)
            ctx.save_for_backward(frames, predictions, weight, bias, targets, normalizers, *posteriors)
            ctx.form, ctx.lattice = form, lattice
        return -sums.log_likelihood

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        frames, predictions, weight, bias, targets, normalizers, *saved = ctx.saved_tensors
        posteriors, lattice = NodePosteriors(*saved), ctx.lattice
        network = JointNetwork(frames, predictions, weight, bias, ctx.form)
        # Nodes of values that are not finite count too, so that a loss without a value has no gradient either.
        totals = posteriors.blanks + posteriors.labels  # (batch, frames, nodes)
        is_visited = ~(totals <= torch.finfo(totals.dtype).eps * _POSTERIOR_SHARE) & (gradient != 0)[:, None, None]
        wants = ctx.needs_input_grad[:4]
        with torch.autocast(frames.device.type, enabled=False):
            if takes_triton(frames):
                arguments = normalizers, posteriors, is_visited, gradient, wants
                results = differentiate_packed_nodes(network, targets, lattice.blank_id, lattice.clamp, *arguments)
            else:
                results = _differentiate_nodes(
                    network, targets, lattice, normalizers, posteriors, is_visited, gradient, wants
                )
        of_inputs = (None if result is None else result.to(frames.dtype) for result in results)
        return *of_inputs, None, None, None, None, None, None


def _score_nodes(
    network: JointNetwork,
    targets: Tensor,
    encoder_lengths: Sequence[int],
    target_lengths: Sequence[int],
    lattice: _Lattice,
) -> NodeScores:
    """Scores of all valid nodes; targets: (batch, targets + 1)."""
    rows = count_rows(network)
    slices = JointSlices(network, rows)
    frames = network.frames
    shape = (*frames.shape[:2], network.predictions.shape[1])
    normalizers, blank, labels = torch.zeros(3, *shape, dtype=slices.dtype, device=frames.device)
    durations = torch.zeros(*shape, lattice.num_durations, dtype=slices.dtype, device=frames.device)
    num_tokens = network.num_outputs - lattice.num_durations
    for area in list_areas(encoder_lengths, target_lengths, rows):
        outputs = slices.compute(area)  # (outputs, rows)
        tokens = outputs[:num_tokens]
        blank_outputs = tokens[lattice.blank_id].clone()
        label_outputs = tokens.gather(0, _label_index(targets, area))[0]
        normalizer = _sum_exponents(tokens)
        normalizers[area.of_nodes] = normalizer.view(area.shape)
        blank[area.of_nodes] = (blank_outputs - normalizer).view(area.shape)
        labels[area.of_nodes] = (label_outputs - normalizer).view(area.shape)
        if lattice.num_durations:
            log_probs = outputs[num_tokens:].log_softmax(0)  # (durations, rows)
            durations[area.of_nodes] = log_probs.t().view(*area.shape, -1)
    return NodeScores(normalizers, blank, labels, durations)


def _differentiate_nodes(
    network: JointNetwork,
    targets: Tensor,
    lattice: _Lattice,
    normalizers: Tensor,
    posteriors: NodePosteriors,
    is_visited: Tensor,
    scales: Tensor,
    wants: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of frames, predictions, weight and bias from the nodes to visit, (batch, frames, nodes)."""
    rows = count_rows(network)
    slices = JointSlices(network, rows)
    gradients = JointGradients(slices, wants)
    num_tokens = network.num_outputs - lattice.num_durations
    first_nodes, end_nodes, factors = _find_bands(is_visited, scales)
    for clip, factor in enumerate(factors):
        for area in list_band_areas(clip, first_nodes[clip], end_nodes[clip], rows):
            of_blanks, of_labels = (
                posteriors.blanks[area.of_nodes].flatten(),
                posteriors.labels[area.of_nodes].flatten(),
            )
            total = of_blanks + of_labels
            outputs = slices.compute(area)
            tokens = outputs[:num_tokens]
            tokens.sub_(normalizers[area.of_nodes].flatten() - total.log()).exp_()
            tokens[lattice.blank_id] -= of_blanks
            tokens.scatter_add_(0, _label_index(targets, area), -of_labels[None])
            if lattice.clamp > 0.0:
                tokens.clamp_(-lattice.clamp, lattice.clamp)
            if posteriors.durations is not None:
                of_durations = posteriors.durations[area.of_nodes].flatten(0, 1).t()  # (durations, rows)
                outputs[num_tokens:] = outputs[num_tokens:].softmax(0) * total - of_durations
            gradients.add(area, outputs, factor)
    return gradients.frames, gradients.predictions, gradients.weight, gradients.bias


def _label_index(targets: Tensor, area: Area) -> Tensor:
    """The next label at each row of an area, (1, rows); 0 after the last one. Targets: (batch, targets + 1)."""
    nodes = targets[area.clip, area.first_node : area.end_node]
    return nodes.expand(area.shape[0], -1).reshape(1, -1)


def _sum_exponents(tokens: Tensor) -> Tensor:
    """Log of the sum of exponents of (tokens, rows), which is overwritten: (rows,)."""
    top = tokens.amax(0).clamp_(min=torch.finfo(tokens.dtype).min)
    return tokens.sub_(top).exp_().sum(0).log_().add_(top)


def _find_bands(is_visited: Tensor, scales: Tensor) -> tuple[list[list[int]], list[list[int]], list[float]]:
    """First and end of the nodes to visit for each clip and frame, and the factors of the clips, on the host."""
    num_nodes = is_visited.shape[2]
    nodes = torch.arange(1, num_nodes + 1, dtype=torch.int64, device=is_visited.device)
    end = (is_visited * nodes).amax(-1)  # (batch, frames)
    first = num_nodes - (is_visited * nodes.flip(0)).amax(-1)
    # One copy from the device in place of three; the counts are far below what a float holds exactly.
    found = torch.cat([first, end, scales[:, None]], dim=1).tolist()
    num_frames = is_visited.shape[1]
    bands = [[int(node) for node in row[:-1]] for row in found]
    return [row[:num_frames] for row in bands], [row[num_frames:] for row in bands], [row[-1] for row in found]
