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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

REDUCTIONS = ("mean_batch", "mean", "mean_volume", "sum", "none")


class TokenLogProbabilities(torch.autograd.Function):
    """Log-probabilities of the blank and of the next target at every node, without keeping a log-softmax of the joint.

    Same values as `log_softmax` followed by two gathers; the backward pass writes one tensor of the joint's size where
    autograd would write three.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, blank_id: int) -> tuple[Tensor, Tensor]:
        # logits (batch, frames, targets + 1, tokens), targets (batch, targets)
        normalizers = torch.logsumexp(logits, dim=-1)  # (batch, frames, targets + 1)
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
        # blank_arcs (batch, frames, targets + 1, blank durations)
        # label_arcs (batch, frames, targets, label durations)
        frames, nodes = blank_arcs.shape[1], blank_arcs.shape[2]
        blank_arcs, label_arcs = _mask_impossible_arcs(
            blank_arcs,
            F.pad(label_arcs, (0, 0, 0, 1)),
            encoder_lengths,
            target_lengths,
            blank_durations,
            label_durations,
        )
        need_posteriors = any(ctx.needs_input_grad[:2])

        # Arcs by the node they enter, with one more frame than the encoder gave: the end of a clip has its own nodes.
        entering = [_delay(blank_arcs[..., i], d, 0) for i, d in enumerate(blank_durations)]
        entering += [_delay(label_arcs[..., i], d, 1) for i, d in enumerate(label_durations)]
        scores = torch.stack(entering)  # (arcs, batch, frames + 1, nodes)
        clips = torch.arange(len(encoder_lengths), device=scores.device)
        start = scores.new_full(scores.shape[1:], -torch.inf)
        start[:, 0, 0] = 0.0
        if need_posteriors:
            # In the reversed lattice an arc enters the node that it leaves in this one.
            leaving = torch.cat([blank_arcs, label_arcs], dim=-1).permute(3, 0, 1, 2)  # (arcs, batch, frames, nodes)
            leaving = F.pad(leaving, (0, 0, 0, 1), value=-torch.inf)
            end = torch.full_like(start, -torch.inf)
            end[clips, encoder_lengths, target_lengths] = 0.0
            scores = torch.cat([scores, leaving.flip(2, 3)], dim=1)
            start = torch.cat([start, end.flip(1, 2)])

        variables = _sum_paths(
            scores, start, blank_durations, label_durations
        )  # (batch or 2 * batch, frames + 1, nodes)
        forward_variables = variables[: len(clips)]
        log_likelihood = forward_variables[clips, encoder_lengths, target_lengths]
        if need_posteriors:
            backward_variables = variables[len(clips) :].flip(1, 2)
            # An impossible clip has no posterior: its gradient is zero, not NaN.
            normalizer = log_likelihood.masked_fill(torch.isneginf(log_likelihood), torch.inf)[:, None, None]
            forward_variables = forward_variables[:, :frames] - normalizer
            blank_posteriors = torch.empty_like(blank_arcs)
            for i, duration in enumerate(blank_durations):
                after = _advance(backward_variables, duration, 0)
                blank_posteriors[..., i] = torch.exp(forward_variables + blank_arcs[..., i] + after)
            label_posteriors = torch.empty_like(label_arcs)
            for i, duration in enumerate(label_durations):
                after = _advance(backward_variables, duration, 1)
                label_posteriors[..., i] = torch.exp(forward_variables + label_arcs[..., i] + after)
            label_posteriors = label_posteriors[:, :, : nodes - 1] * (1.0 + fastemit_lambda)
            ctx.save_for_backward(blank_posteriors, label_posteriors)
        return log_likelihood

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        blank_posteriors, label_posteriors = ctx.saved_tensors
        # A zero posterior stays zero for every incoming gradient (the reduction of an infinite loss may send NaN).
        scale = gradient[:, None, None, None]
        blank = torch.where(blank_posteriors == 0, blank_posteriors, blank_posteriors * scale)
        label = torch.where(label_posteriors == 0, label_posteriors, label_posteriors * scale)
        return blank, label, None, None, None, None, None


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
    lands = frame + torch.tensor(blank_durations, dtype=torch.int64, device=device)
    keep = (lands < last_frame) & (node <= last_node) | (lands == last_frame) & (node == last_node)
    blank_arcs = blank_arcs.masked_fill(~keep, -torch.inf)
    lands = frame + torch.tensor(label_durations, dtype=torch.int64, device=device)
    label_arcs = label_arcs.masked_fill(~((lands < last_frame) & (node < last_node)), -torch.inf)
    return blank_arcs, label_arcs


def _delay(arcs: Tensor, frames_later: int, nodes_later: int) -> Tensor:
    """(batch, frames, nodes) by origin to (batch, frames + 1, nodes) by destination."""
    frames, nodes = arcs.shape[1], arcs.shape[2]
    kept = arcs[:, : max(frames + 1 - frames_later, 0), : nodes - nodes_later]
    before = min(frames_later, frames + 1)
    return F.pad(kept, (nodes_later, 0, before, frames + 1 - before - kept.shape[1]), value=-torch.inf)


def _advance(variables: Tensor, frames_later: int, nodes_later: int) -> Tensor:
    """(batch, frames + 1, nodes) to (batch, frames, nodes): the value at the node an arc leads to."""
    frames, nodes = variables.shape[1] - 1, variables.shape[2]
    kept = variables[:, frames_later : frames_later + frames, nodes_later:]
    return F.pad(kept, (0, nodes - kept.shape[2], 0, frames - kept.shape[1]), value=-torch.inf)


def _sum_paths(
    scores: Tensor, start: Tensor, blank_durations: tuple[int, ...], label_durations: tuple[int, ...]
) -> Tensor:
    """Log-sum over all paths from `start` to every node: scores (arcs, batch, frames + 1, nodes) by destination."""
    arcs, batch, frames, nodes = scores.shape
    diagonals = frames + nodes - 1
    # Skewing: row u of the transposed lattice moves right by u, so that one column is one anti-diagonal.
    skewed = torch.cat([scores, start[None]]).transpose(2, 3)  # (arcs + 1, batch, nodes, frames)
    skewed = F.pad(skewed, (0, nodes), value=-torch.inf).flatten(2)[..., : nodes * diagonals]
    skewed = skewed.view(arcs + 1, batch, nodes, diagonals).permute(3, 0, 1, 2).contiguous()

    history = max((*blank_durations, *label_durations)) + 1
    # sums[history + n, :, 1 + u]; the rows and the column before the lattice hold zero probability.
    sums = scores.new_full((history + diagonals, batch, nodes + 1), -torch.inf)
    blank_offsets = [history - duration for duration in blank_durations]
    label_offsets = [history - duration - 1 for duration in label_durations]
    for diagonal in range(diagonals):
        entering = skewed[diagonal]  # (arcs + 1, batch, nodes); the last one is the start
        for arc, offset in enumerate(blank_offsets):
            entering[arc] += sums[diagonal + offset, :, 1:]
        for arc, offset in enumerate(label_offsets, start=len(blank_offsets)):
            entering[arc] += sums[diagonal + offset, :, :-1]
        torch.logsumexp(entering, dim=0, out=sums[history + diagonal, :, 1:])

    # Undo the skew.
    sums = sums[history:, :, 1:].permute(1, 2, 0)  # (batch, nodes, diagonals)
    sums = F.pad(sums.flatten(1), (0, nodes)).view(batch, nodes, diagonals + 1)[..., :frames]
    return sums.transpose(1, 2)


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
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r} is not supported; expected one of {', '.join(REDUCTIONS)}.")
    if joint_logits.dim() != 4 or targets.dim() != 2 or joint_logits.shape[2] != targets.shape[1] + 1:
        raise ValueError(
            f"joint_logits of shape {tuple(joint_logits.shape)} and targets of shape {tuple(targets.shape)} do not "
            "fit; expected (batch, frames, targets + 1, outputs) and (batch, targets)."
        )
    batch, frames = joint_logits.shape[:2]
    for name, value in (
        ("targets", targets),
        ("encoder_lengths", encoder_lengths),
        ("target_lengths", target_lengths),
    ):
        if value.shape[0] != batch or (name != "targets" and value.dim() != 1):
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected a batch of {batch} as in joint_logits.")
        if value.is_floating_point():
            raise ValueError(f"{name} has dtype {value.dtype}; expected integers.")
    if not 0 <= blank_id < tokens:
        raise ValueError(f"blank_id={blank_id} is outside the {tokens} tokens of joint_logits.")
    for name, lengths, limit in (
        ("encoder_lengths", encoder_lengths, frames),
        ("target_lengths", target_lengths, targets.shape[1]),
    ):
        if batch and (int(lengths.min()) < 0 or int(lengths.max()) > limit):
            raise ValueError(f"{name}={lengths.tolist()}; expected values from 0 to {limit}.")
    within = torch.arange(targets.shape[1], device=targets.device) < target_lengths[:, None]
    wrong = within & ((targets < 0) | (targets >= tokens) | (targets == blank_id))
    if bool(wrong.any()):
        raise ValueError(
            f"targets holds {targets[wrong].unique().tolist()}; expected ids from 0 to {tokens - 1} other than the "
            f"blank {blank_id} (padding beyond target_lengths may hold anything)."
        )


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
