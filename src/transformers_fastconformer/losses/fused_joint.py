"""RNN-T and TDT losses from the inputs of the joint network, whose outputs are never held whole.

The forward pass computes the joint slice by slice, over the valid nodes of each clip only, and keeps of a node its
normaliser and the log-probabilities that leave it. The sum over all alignments turns these into posteriors: of the
blank, of the next label and of each duration, which with the normaliser are all that a node keeps for the backward
pass. That one computes the slices again and adds up the gradients of frames, predictions, weight and bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..validation import is_number, require
from .joint_slices import (
    Area,
    JointForm,
    JointGradients,
    JointNetwork,
    JointSlices,
    count_rows,
    list_areas,
    list_band_areas,
)
from .lattice import check_durations, check_targets, fill_padding, reduce_losses, sum_alignments

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
    check_targets(
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
        lattice: _Lattice,
    ) -> Tensor:
        network = JointNetwork(frames, predictions, weight, bias, form)
        rows = count_rows(network)
        slices = JointSlices(network, rows)
        shape = (frames.shape[0], frames.shape[1], predictions.shape[1])
        normalizers, blank, labels = torch.zeros(3, *shape, dtype=slices.dtype, device=frames.device)
        durations = torch.zeros(*shape, lattice.num_durations, dtype=slices.dtype, device=frames.device)
        num_tokens = weight.shape[0] - lattice.num_durations
        with torch.autocast(frames.device.type, enabled=False):
            for area in list_areas(encoder_lengths.tolist(), target_lengths.tolist(), rows):
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
        del slices
        blank_arcs, label_arcs = blank[..., None], labels[:, :, :-1, None]
        if lattice.num_durations:
            blank_arcs = blank_arcs - lattice.sigma + durations[..., lattice.blank_outputs]
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
                of_durations[..., lattice.blank_outputs] += of_blanks
            ctx.save_for_backward(
                *(frames, predictions, weight, bias, targets, normalizers),
                *(of_blanks.sum(-1), of_labels.sum(-1), of_durations),
            )
            ctx.form, ctx.lattice = form, lattice
        return -sums.log_likelihood

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        frames, predictions, weight, bias, targets, normalizers, of_blanks, of_labels, of_durations = ctx.saved_tensors
        lattice: _Lattice = ctx.lattice
        network = JointNetwork(frames, predictions, weight, bias, ctx.form)
        rows = count_rows(network)
        slices = JointSlices(network, rows)
        gradients = JointGradients(slices, ctx.needs_input_grad[:4])
        num_tokens = weight.shape[0] - lattice.num_durations
        totals = of_blanks + of_labels  # (batch, frames, nodes)
        first_nodes, end_nodes = _find_bands(totals)
        with torch.autocast(frames.device.type, enabled=False):
            for clip, scale in enumerate(gradient.tolist()):
                if scale == 0:
                    continue
                for area in list_band_areas(clip, first_nodes[clip], end_nodes[clip], rows):
                    total = totals[area.of_nodes].flatten()
                    outputs = slices.compute(area)
                    tokens = outputs[:num_tokens]
                    tokens.sub_(normalizers[area.of_nodes].flatten() - total.log()).exp_()
                    tokens[lattice.blank_id] -= of_blanks[area.of_nodes].flatten()
                    tokens.scatter_add_(0, _label_index(targets, area), -of_labels[area.of_nodes].reshape(1, -1))
                    if lattice.clamp > 0.0:
                        tokens.clamp_(-lattice.clamp, lattice.clamp)
                    if lattice.num_durations:
                        posteriors = of_durations[area.of_nodes].flatten(0, 1).t()  # (durations, rows)
                        outputs[num_tokens:] = outputs[num_tokens:].softmax(0) * total - posteriors
                    gradients.add(area, outputs, scale)
        results = (gradients.frames, gradients.predictions, gradients.weight, gradients.bias)
        of_inputs = (None if result is None else result.to(frames.dtype) for result in results)
        return *of_inputs, None, None, None, None, None


def _label_index(targets: Tensor, area: Area) -> Tensor:
    """The next label at each row of an area, (1, rows); 0 after the last one. Targets: (batch, targets + 1)."""
    nodes = targets[area.clip, area.first_node : area.end_node]
    return nodes.expand(area.shape[0], -1).reshape(1, -1)


def _sum_exponents(tokens: Tensor) -> Tensor:
    """Log of the sum of exponents of (tokens, rows), which is overwritten: (rows,)."""
    top = tokens.amax(0).clamp_(min=torch.finfo(tokens.dtype).min)
    return tokens.sub_(top).exp_().sum(0).log_().add_(top)


def _find_bands(totals: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """First and end of the nodes to visit for each clip and frame; totals (batch, frames, nodes)."""
    # Nodes of values that are not finite count too, so that a loss without a value has no gradient either.
    is_visited = ~(totals <= torch.finfo(totals.dtype).eps * _POSTERIOR_SHARE)
    nodes = torch.arange(1, totals.shape[2] + 1, dtype=torch.int64, device=totals.device)
    end = (is_visited * nodes).amax(-1)
    first = totals.shape[2] - (is_visited * nodes.flip(0)).amax(-1)
    return first.tolist(), end.tolist()
