"""Sum over all alignments of a transducer, and the posterior of every arc, for a padded batch.

A transducer lattice has the nodes (frame, number of emitted targets). Two kinds of arcs leave a node: a blank arc
keeps the number of targets and moves on by a positive duration, a label arc adds one target and moves on by a
duration that may be zero. RNN-T (Graves 2012) is the case of blanks of duration 1 and labels of duration 0; TDT
(Xu et al. 2023, equation 7) lets every arc carry any duration of a list. An alignment starts at (0, 0) and must leave
the last frame by a blank that lands exactly on the end of the clip, after all targets.

All nodes of one anti-diagonal (frame + targets = constant) depend on earlier diagonals only, so they are computed
together; the forward and the backward variables run in the same loop, the backward ones on the reversed lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..kernels.triton_choice import takes_triton

REDUCTIONS = ("mean_batch", "mean", "mean_volume", "sum", "none")


class TokenLogProbabilities(torch.autograd.Function):
    """Log-probabilities of the blank and of the next target at every node, without keeping a log-softmax of the joint.

    Same values as `log_softmax` followed by two gathers; the backward pass writes one tensor of the joint's size where
    autograd would write three.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, blank_id: int) -> tuple[Tensor, Tensor]:
        # logits (batch, frames, targets + 1, tokens), targets (batch, targets)
        normalizers = log_sum_exp(logits, dim=-1)  # (batch, frames, targets + 1)
        blank = logits[..., blank_id] - normalizers
        index = targets[:, None, :, None].expand(-1, logits.shape[1], -1, 1)
        labels = logits[:, :, :-1].gather(-1, index)[..., 0] - normalizers[:, :, :-1]  # (batch, frames, targets)
        ctx.save_for_backward(logits, normalizers, index)
        ctx.blank_id = blank_id
        return blank, labels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, blank_gradient: Tensor, label_gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, normalizers, index = ctx.saved_tensors
        total = blank_gradient + F.pad(label_gradient, (0, 1))
        gradient = torch.exp(logits - normalizers[..., None]).mul_(-total[..., None])
        gradient[..., ctx.blank_id] += blank_gradient
        gradient[:, :, :-1].scatter_add_(-1, index, label_gradient[..., None])
        return gradient, None, None


def log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """`torch.logsumexp`, which on a CPU takes ten times as long (torch 2.13)."""
    top = values.amax(dim, keepdim=True).clamp_(min=torch.finfo(values.dtype).min)
    return (values - top).exp_().sum(dim).log_() + top.squeeze(dim)


class AlignmentLogLikelihood(torch.autograd.Function):
    """Log of the summed probability of all alignments; its gradient is the posterior of each arc.

    The posterior of the label arcs is scaled by 1 + `fastemit_lambda` (FastEmit, Yu et al. 2021, equation 10).
    """

    @staticmethod
    def forward(
        ctx: Any,
        blank_arcs: Tensor,
        label_arcs: Tensor,
        encoder_lengths: Tensor,
        target_lengths: Tensor,
        blank_durations: tuple[int, ...],
        label_durations: tuple[int, ...],
        fastemit_lambda: float,
    ) -> Tensor:
        need_posteriors = any(ctx.needs_input_grad[:2])
        sums = sum_alignments(
            blank_arcs, label_arcs, encoder_lengths, target_lengths, blank_durations, label_durations, need_posteriors
        )
        if sums.label_posteriors is not None:
            ctx.save_for_backward(sums.blank_posteriors, sums.label_posteriors * (1.0 + fastemit_lambda))
        return sums.log_likelihood

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        blank_posteriors, label_posteriors = ctx.saved_tensors
        # A zero posterior stays zero for every incoming gradient (the reduction of an infinite loss may send NaN).
        scale = gradient[:, None, None, None]
        blank = torch.where(blank_posteriors == 0, blank_posteriors, blank_posteriors * scale)
        label = torch.where(label_posteriors == 0, label_posteriors, label_posteriors * scale)
        return blank, label, None, None, None, None, None


class AlignmentSums(NamedTuple):
    """Sums over all alignments of each clip: log of the probability, and the posteriors of the arcs where wanted."""

    log_likelihood: Tensor  # (batch,)
    blank_posteriors: Tensor | None = None  # (batch, frames, targets + 1, blank durations)
    label_posteriors: Tensor | None = None  # (batch, frames, targets, label durations)


def sum_alignments(
    blank_arcs: Tensor,
    label_arcs: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: tuple[int, ...],
    label_durations: tuple[int, ...],
    need_posteriors: bool,
) -> AlignmentSums:
    """
    Sum over all alignments, given the log-probability of every arc by the node that it leaves.

    Args:
        blank_arcs: (batch, frames, targets + 1, blank durations).
        label_arcs: (batch, frames, targets, label durations).
        encoder_lengths: Valid frames of each clip, (batch,).
        target_lengths: Valid targets of each clip, (batch,).
        blank_durations: Frames by which each kind of blank arc moves on.
        label_durations: Frames by which each kind of label arc moves on.
        need_posteriors: True to compute the posteriors too; those of an impossible clip are zero.
    """
    if takes_triton(blank_arcs):
        from ..kernels.cuda import transducer_lattice

        return AlignmentSums(
            *transducer_lattice.sum_alignments(
                blank_arcs,
                label_arcs,
                encoder_lengths,
                target_lengths,
                blank_durations,
                label_durations,
                need_posteriors,
            )
        )
    frames, nodes = blank_arcs.shape[1], blank_arcs.shape[2]
    blank_arcs, label_arcs = _mask_impossible_arcs(
        blank_arcs,
        F.pad(label_arcs, (0, 0, 0, 1)),
        encoder_lengths,
        target_lengths,
        blank_durations,
        label_durations,
    )

    lattices = _SkewedLattices(blank_arcs, label_arcs, blank_durations, label_durations, need_posteriors)
    clips = torch.arange(len(encoder_lengths), device=blank_arcs.device)
    lattices.start(clips, torch.zeros_like(encoder_lengths), torch.zeros_like(target_lengths))
    if need_posteriors:
        lattices.start(len(clips) + clips, frames - encoder_lengths, nodes - 1 - target_lengths)
    variables = lattices.sum_paths()  # (batch or 2 * batch, frames + 1, nodes)
    forward_variables = variables[: len(clips)]
    log_likelihood = forward_variables[clips, encoder_lengths, target_lengths]  # (batch,)
    if not need_posteriors:
        return AlignmentSums(log_likelihood.to(blank_arcs.dtype))
    backward_variables = variables[len(clips) :].flip(1, 2)
    # An impossible clip has no posterior: its gradient is zero, not NaN.
    normalizer = log_likelihood.masked_fill(torch.isneginf(log_likelihood), torch.inf)[:, None, None]
    forward_variables = forward_variables[:, :frames] - normalizer
    blank_posteriors = torch.empty_like(blank_arcs)
    for i, duration in enumerate(blank_durations):
        after = _advance(backward_variables, duration, 0)
        blank_posteriors[..., i] = torch.exp(after.add_(forward_variables).add_(blank_arcs[..., i]))
    label_posteriors = torch.empty_like(label_arcs)
    for i, duration in enumerate(label_durations):
        after = _advance(backward_variables, duration, 1)
        label_posteriors[..., i] = torch.exp(after.add_(forward_variables).add_(label_arcs[..., i]))
    return AlignmentSums(log_likelihood.to(blank_arcs.dtype), blank_posteriors, label_posteriors[:, :, : nodes - 1])


def _mask_impossible_arcs(
    blank_arcs: Tensor,
    label_arcs: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: tuple[int, ...],
    label_durations: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """Give probability zero to arcs in the padding, beyond the end, or into the end before the last target."""
    frames, nodes = blank_arcs.shape[1], blank_arcs.shape[2]
    device = blank_arcs.device
    frame = torch.arange(frames, device=device)[None, :, None, None]
    node = torch.arange(nodes, device=device)[None, None, :, None]
    last_frame = encoder_lengths[:, None, None, None]
    last_node = target_lengths[:, None, None, None]
    # Durations stay numbers: a tensor of them would be a copy to the device, which waits for it.
    lands = torch.cat([frame + duration for duration in blank_durations], dim=-1)
    keep = (lands < last_frame) & (node <= last_node) | (lands == last_frame) & (node == last_node)
    blank_arcs = blank_arcs.masked_fill(~keep, -torch.inf)
    lands = torch.cat([frame + duration for duration in label_durations], dim=-1)
    label_arcs = label_arcs.masked_fill(~((lands < last_frame) & (node < last_node)), -torch.inf)
    return blank_arcs, label_arcs


def _advance(variables: Tensor, frames_later: int, nodes_later: int) -> Tensor:
    """(batch, frames + 1, nodes) to (batch, frames, nodes): the value at the node an arc leads to."""
    frames, nodes = variables.shape[1] - 1, variables.shape[2]
    kept = variables[:, frames_later : frames_later + frames, nodes_later:]
    return F.pad(kept, (0, nodes - kept.shape[2], 0, frames - kept.shape[1]), value=-torch.inf)


class _SkewedLattices:
    """
    The lattices of a batch, and where wanted after them their reversed forms, by anti-diagonals.

    They have one more frame than the encoder gave, as the end of a clip has nodes of its own. The sums are float64:
    the difference of sums over hundreds of frames is a posterior, of which float32 leaves three or four digits.

    Args:
        blank_arcs: (batch, frames, nodes, blank durations), by the node that an arc leaves.
        label_arcs: (batch, frames, nodes, label durations).
        blank_durations: Frames by which each kind of blank arc moves on.
        label_durations: Frames by which each kind of label arc moves on.
        has_reversed: True to append the reversed lattices.
    """

    def __init__(
        self,
        blank_arcs: Tensor,
        label_arcs: Tensor,
        blank_durations: tuple[int, ...],
        label_durations: tuple[int, ...],
        has_reversed: bool,
    ) -> None:
        batch, frames, nodes, _ = blank_arcs.shape
        self.steps = [(duration, 0) for duration in blank_durations] + [(duration, 1) for duration in label_durations]
        self.shape = (2 * batch if has_reversed else batch, frames + 1, nodes)
        dtype = torch.float32 if blank_arcs.device.type == "mps" else torch.float64
        # The last of the arcs that enter a node is the start.
        size = (frames + nodes, len(self.steps) + 1, self.shape[0], nodes)
        self.entering = torch.full(size, -torch.inf, dtype=dtype, device=blank_arcs.device)
        arcs = [*blank_arcs.unbind(-1), *label_arcs.unbind(-1)]
        for place, (by_origin, (frames_later, nodes_later)) in enumerate(zip(arcs, self.steps, strict=True)):
            by_destination = self._unskew(self.entering[:, place])
            count = max(min(frames, frames + 1 - frames_later), 0)
            by_destination[:batch, frames_later : frames_later + count, nodes_later:] = by_origin[
                :, :count, : nodes - nodes_later
            ]
            if has_reversed:  # an arc enters the node there that it leaves here
                by_destination[batch:, 1:] = by_origin.flip(1, 2)

    def start(self, lattices: Tensor, frames: Tensor, nodes: Tensor) -> None:
        """Let each of these lattices start at a node of its own."""
        self._unskew(self.entering[:, -1])[lattices, frames, nodes] = 0.0

    def _unskew(self, diagonals: Tensor) -> Tensor:
        """(lattices, frames, nodes) as a view of (diagonals, lattices, nodes), where diagonal = frame + node."""
        next_diagonal, next_lattice, next_node = diagonals.stride()
        strides = (next_lattice, next_diagonal, next_diagonal + next_node)
        return diagonals.as_strided(self.shape, strides, diagonals.storage_offset())

    def sum_paths(self) -> Tensor:
        """Log-sum over all paths from the start to every node, (lattices, frames, nodes)."""
        num_diagonals, _, lattices, nodes = self.entering.shape
        history = max(frames_later + nodes_later for frames_later, nodes_later in self.steps)
        # sums[history + n, :, 1 + u]; the rows and the column before the lattice hold zero probability.
        sums = self.entering.new_full((history + num_diagonals, lattices, nodes + 1), -torch.inf)
        for diagonal in range(num_diagonals):
            entering = self.entering[diagonal]  # (arcs + 1, lattices, nodes)
            for arc, (frames_later, nodes_later) in enumerate(self.steps):
                before = sums[history + diagonal - frames_later - nodes_later]
                entering[arc] += before[:, 1:] if nodes_later == 0 else before[:, :-1]
            torch.logsumexp(entering, dim=0, out=sums[history + diagonal, :, 1:])
        return self._unskew(sums[history:, :, 1:])


def check_loss_inputs(
    joint_logits: Tensor,
    targets: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_id: int,
    tokens: int,
    reduction: str,
) -> None:
    """Refuse shapes, lengths, ids and reductions that do not fit together."""
    if joint_logits.dim() != 4 or targets.dim() != 2 or joint_logits.shape[2] != targets.shape[1] + 1:
        raise ValueError(
            f"joint_logits of shape {tuple(joint_logits.shape)} and targets of shape {tuple(targets.shape)} do not "
            "fit; expected (batch, frames, targets + 1, outputs) and (batch, targets)."
        )
    check_targets("joint_logits", joint_logits, targets, encoder_lengths, target_lengths, blank_id, tokens, reduction)


def check_targets(
    source: str,
    frames_of_clips: Tensor,
    targets: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_id: int,
    tokens: int,
    reduction: str,
) -> tuple[list[int], list[int]]:
    """
    Refuse targets, lengths, ids and reductions that do not fit `source`, a tensor (batch, frames, ...).

    Returns:
        Encoder lengths and target lengths. All that is asked of a device is asked at once, since each answer is a wait
        for it.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r} is not supported; expected one of {', '.join(REDUCTIONS)}.")
    batch, frames = frames_of_clips.shape[:2]
    for name, value in (
        ("targets", targets),
        ("encoder_lengths", encoder_lengths),
        ("target_lengths", target_lengths),
    ):
        if value.shape[0] != batch or (name != "targets" and value.dim() != 1):
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected a batch of {batch} as in {source}.")
        if value.is_floating_point():
            raise ValueError(f"{name} has dtype {value.dtype}; expected integers.")
    if not 0 <= blank_id < tokens:
        raise ValueError(f"blank_id={blank_id} is outside the {tokens} tokens of {source}.")
    within = torch.arange(targets.shape[1], dtype=torch.int64, device=targets.device) < target_lengths[:, None]
    wrong = within & ((targets < 0) | (targets >= tokens) | (targets == blank_id))
    *lengths, has_wrong_ids = torch.cat([encoder_lengths, target_lengths, wrong.any()[None]]).tolist()
    limits = {"encoder_lengths": (lengths[:batch], frames), "target_lengths": (lengths[batch:], targets.shape[1])}
    for name, (values, limit) in limits.items():
        if batch and (min(values) < 0 or max(values) > limit):
            raise ValueError(f"{name}={values}; expected values from 0 to {limit}.")
    if has_wrong_ids:
        raise ValueError(
            f"targets holds {targets[wrong].unique().tolist()}; expected ids from 0 to {tokens - 1} other than the "
            f"blank {blank_id} (padding beyond target_lengths may hold anything)."
        )
    return lengths[:batch], lengths[batch:]


def reduce_losses(losses: Tensor, target_lengths: Tensor, reduction: str) -> Tensor:
    """Reduce losses as NeMo does: mean over clips, mean of losses per target, sum over sum of targets, sum, none.

    A clip without targets counts as one target in `mean`; NeMo 3.0 divides by zero there.
    """
    if reduction == "mean_batch":
        return losses.mean()
    if reduction == "mean":
        return (losses / target_lengths.clamp(min=1)).mean()
    if reduction == "mean_volume":
        return losses.sum() / target_lengths.sum().clamp(min=1)
    if reduction == "sum":
        return losses.sum()
    return losses


def check_durations(durations: Sequence[int]) -> tuple[int, ...]:
    """Check durations: different values in frames, at least one of them positive."""
    values = tuple(int(duration) for duration in durations)
    if not values or min(values) < 0 or max(values) < 1 or len(set(values)) != len(values):
        raise ValueError(
            f"durations={list(durations)} is not supported; expected different non-negative integers, at least one of "
            "them positive."
        )
    return values


def fill_padding(targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Replace the padding with a valid id, so that gathering cannot fail."""
    within = torch.arange(targets.shape[1], device=targets.device) < target_lengths[:, None]
    return targets.long().masked_fill(~within, 0)
