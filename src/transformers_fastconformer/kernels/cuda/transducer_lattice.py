"""Sums over all alignments of a transducer in Triton: forward and backward variables, then the posteriors of the arcs.

The mathematics and the arguments are those of `losses.lattice`, which is the reference. One launch computes all
variables: one program walks over the anti-diagonals of one clip in one direction, so that the steps, each of which
needs the ones before, wait at a barrier of the program and not at a launch. A second launch computes the posteriors.
The arcs are read where they lie; nothing is skewed or masked in copies.

All sums are float64, as in the reference: a variable grows with the length of the clip to hundreds or thousands, a
posterior is the exponent of a difference of such numbers, and in float32 it would keep three or four digits. The
variables of one anti-diagonal lie next to one another, (directions, batch, diagonals, nodes). The backward direction
is the forward one on the mirrored lattice: place (i, j) is the node (frames - i, targets - j) of the clip.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

# Places of a diagonal times arcs that a program holds at a time, and nodes times arcs of a program of posteriors: with
# more, the registers of a thread do not suffice.
TILE = 1024
POSTERIOR_TILE = 512


@triton.jit
def _is_arc(frame, node, lands_on, goes_to, is_label, num_frames, num_targets):
    """True for arcs that leave a node of the clip and lead to one, or as a blank to the end after the last target."""
    is_inside = (frame >= 0) & (frame < num_frames) & (node >= 0) & (goes_to <= num_targets)
    is_end = (lands_on == num_frames) & (goes_to == num_targets) & (is_label == 0)
    return is_inside & ((lands_on < num_frames) | is_end)


@triton.jit
def _load_arcs(blank_arcs, label_arcs, at_node, at_label, arc, num_blanks, num_arcs, is_arc):
    """Log-probabilities of arcs in float64, -inf at places without an arc."""
    nothing = float("-inf")
    is_blank = arc < num_blanks
    blanks = tl.load(blank_arcs + at_node * num_blanks + arc, mask=is_arc & is_blank, other=nothing)
    place = at_label * (num_arcs - num_blanks) + arc - num_blanks
    labels = tl.load(label_arcs + place, mask=is_arc & (arc >= num_blanks), other=nothing)
    return tl.where(is_blank, blanks, labels).to(tl.float64)


@triton.jit(do_not_specialize=["max_frames", "max_targets"])
def _sum_kernel(
    sums,  # (2, batch, max_frames + max_targets + 1, max_targets + 1), float64
    log_likelihoods,  # (batch,), float64
    blank_arcs,  # (batch, max_frames, max_targets + 1, num_blanks)
    label_arcs,  # (batch, max_frames, max_targets, num_arcs - num_blanks)
    steps,  # (2, num_arcs): frames by which an arc moves on, and targets
    encoder_lengths,
    target_lengths,
    max_frames,
    max_targets,
    num_blanks: tl.constexpr,
    num_arcs: tl.constexpr,
    block_places: tl.constexpr,
    block_arcs: tl.constexpr,
):
    clip = tl.program_id(0).to(tl.int64)
    is_mirrored = tl.program_id(1) == 1
    num_clips = tl.num_programs(0)
    num_frames = tl.load(encoder_lengths + clip).to(tl.int32)
    num_targets = tl.load(target_lengths + clip).to(tl.int32)
    max_nodes = max_targets + 1
    sums += (tl.program_id(1) * num_clips + clip) * (max_frames + max_nodes) * max_nodes
    arc = tl.arange(0, block_arcs)[None, :]
    frames_later = tl.load(steps + arc, mask=arc < num_arcs, other=0)
    nodes_later = tl.load(steps + num_arcs + arc, mask=arc < num_arcs, other=0)
    is_label = (arc >= num_blanks).to(tl.int32)
    places = tl.arange(0, block_places)
    for diagonal in range(0, num_frames + num_targets + 1):
        end = tl.minimum(diagonal, num_targets) + 1
        for first in range(tl.maximum(diagonal - num_frames, 0), end, block_places):
            j = first + places
            i = diagonal - j
            is_place = (j < end)[:, None]
            i_before = i[:, None] - frames_later
            j_before = j[:, None] - nodes_later
            # The node that the arc leaves, and the one that it leads to.
            frame = tl.where(is_mirrored, num_frames - i[:, None], i_before)
            node = tl.where(is_mirrored, num_targets - j[:, None], j_before)
            lands_on = frame + frames_later
            goes_to = node + nodes_later
            is_arc = _is_arc(frame, node, lands_on, goes_to, is_label, num_frames, num_targets)
            is_arc = is_arc & is_place & (arc < num_arcs)
            row = clip * max_frames + frame
            at_node = row * max_nodes + node
            at_label = row * max_targets + node
            scores = _load_arcs(blank_arcs, label_arcs, at_node, at_label, arc, num_blanks, num_arcs, is_arc)
            before = tl.load(sums + (i_before + j_before) * max_nodes + j_before, mask=is_arc, other=float("-inf"))
            scores += before
            top = tl.max(scores, 1)
            # Without an entering path all scores are -inf, and so is the logarithm of their sum.
            top = tl.where(top == float("-inf"), 0.0, top)
            total = tl.log(tl.sum(tl.exp(scores - top[:, None]), 1)) + top
            total = tl.where(diagonal == 0, 0.0, total)  # the start
            tl.store(sums + diagonal * max_nodes + j, total, mask=j < end)
        tl.debug_barrier()  # the next diagonals read what other threads wrote
    if not is_mirrored:
        last = (num_frames + num_targets) * max_nodes + num_targets
        tl.store(log_likelihoods + clip, tl.load(sums + last))


@triton.jit(do_not_specialize=["num_nodes", "max_frames", "max_targets"])
def _posterior_kernel(
    blank_posteriors,  # of the shapes of the arcs
    label_posteriors,
    sums,
    log_likelihoods,
    blank_arcs,
    label_arcs,
    steps,
    encoder_lengths,
    target_lengths,
    num_nodes,  # of all clips
    max_frames,
    max_targets,
    num_blanks: tl.constexpr,
    num_arcs: tl.constexpr,
    block_nodes: tl.constexpr,
    block_arcs: tl.constexpr,
):
    max_nodes = max_targets + 1
    arc = tl.arange(0, block_arcs)[None, :]
    frames_later = tl.load(steps + arc, mask=arc < num_arcs, other=0)
    nodes_later = tl.load(steps + num_arcs + arc, mask=arc < num_arcs, other=0)
    is_label = (arc >= num_blanks).to(tl.int32)
    at_node = tl.program_id(0).to(tl.int64) * block_nodes + tl.arange(0, block_nodes)
    is_node = at_node < num_nodes
    row = at_node // max_nodes
    node = (at_node % max_nodes)[:, None]
    clip = row // max_frames
    frame = (row % max_frames)[:, None]
    num_frames = tl.load(encoder_lengths + clip, mask=is_node, other=0)[:, None]
    num_targets = tl.load(target_lengths + clip, mask=is_node, other=0)[:, None]
    log_likelihood = tl.load(log_likelihoods + clip, mask=is_node, other=0.0)[:, None]
    lands_on = frame + frames_later
    goes_to = node + nodes_later
    is_arc = _is_arc(frame, node, lands_on, goes_to, is_label, num_frames, num_targets)
    is_arc = is_arc & is_node[:, None] & (arc < num_arcs)
    at_label = row[:, None] * max_targets + node
    scores = _load_arcs(blank_arcs, label_arcs, at_node[:, None], at_label, arc, num_blanks, num_arcs, is_arc)
    size = (max_frames + max_nodes) * max_nodes
    before = sums + clip[:, None] * size + (frame + node) * max_nodes + node
    # The first of all nodes' clips is followed by the mirrored sums of all clips.
    i = num_frames - lands_on
    j = num_targets - goes_to
    num_clips = num_nodes // (max_frames * max_nodes)
    after = sums + (num_clips + clip[:, None]) * size + (i + j) * max_nodes + j
    scores += tl.load(before, mask=is_arc, other=float("-inf")) + tl.load(after, mask=is_arc, other=float("-inf"))
    # A clip without an alignment has no posteriors.
    is_possible = log_likelihood != float("-inf")
    posteriors = tl.where(is_arc & is_possible, tl.exp(scores - tl.where(is_possible, log_likelihood, 0.0)), 0.0)
    posteriors = posteriors.to(blank_posteriors.dtype.element_ty)
    is_written = is_node[:, None] & (arc < num_arcs)
    tl.store(blank_posteriors + at_node[:, None] * num_blanks + arc, posteriors, mask=is_written & (arc < num_blanks))
    place = at_label * (num_arcs - num_blanks) + arc - num_blanks
    tl.store(label_posteriors + place, posteriors, mask=is_written & (arc >= num_blanks) & (node < max_targets))


@functools.cache
def _list_steps(blank_durations: tuple[int, ...], label_durations: tuple[int, ...], device: torch.device) -> Tensor:
    """Frames and targets by which each arc moves on, (2, arcs); kept, since a copy to a device waits for it."""
    nodes_later = [0] * len(blank_durations) + [1] * len(label_durations)
    return torch.tensor([[*blank_durations, *label_durations], nodes_later], dtype=torch.int32, device=device)


def sum_alignments(
    blank_arcs: Tensor,
    label_arcs: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: tuple[int, ...],
    label_durations: tuple[int, ...],
    need_posteriors: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """
    The fields of `losses.lattice.AlignmentSums`, whose function of the same name has these arguments.

    Returns:
        (batch,) in the dtype of the arcs, and where wanted the posteriors in the shapes of the arcs.
    """
    batch, max_frames, max_nodes, num_blanks = blank_arcs.shape
    num_arcs = num_blanks + len(label_durations)
    device = blank_arcs.device
    blank_arcs, label_arcs = blank_arcs.contiguous(), label_arcs.contiguous()
    lengths = encoder_lengths.contiguous(), target_lengths.contiguous()
    steps = _list_steps(blank_durations, label_durations, device)
    directions = 2 if need_posteriors else 1
    sums = torch.empty(directions, batch, max_frames + max_nodes, max_nodes, dtype=torch.float64, device=device)
    log_likelihoods = torch.empty(batch, dtype=torch.float64, device=device)
    block_arcs = triton.next_power_of_2(num_arcs)
    block_places = max(min(triton.next_power_of_2(max_nodes), TILE // block_arcs), 1)
    arcs = blank_arcs, label_arcs, steps, *lengths
    if batch:
        _sum_kernel[batch, directions](
            *(sums, log_likelihoods, *arcs, max_frames, max_nodes - 1),
            num_blanks=num_blanks,
            num_arcs=num_arcs,
            block_places=block_places,
            block_arcs=block_arcs,
        )
    log_likelihood = log_likelihoods.to(blank_arcs.dtype)
    if not need_posteriors:
        return log_likelihood, None, None
    blank_posteriors, label_posteriors = torch.empty_like(blank_arcs), torch.empty_like(label_arcs)
    num_nodes = batch * max_frames * max_nodes
    if num_nodes:
        block_nodes = max(POSTERIOR_TILE // block_arcs, 1)
        _posterior_kernel[(triton.cdiv(num_nodes, block_nodes),)](
            *(blank_posteriors, label_posteriors, sums, log_likelihoods, *arcs),
            *(num_nodes, max_frames, max_nodes - 1),
            num_blanks=num_blanks,
            num_arcs=num_arcs,
            block_nodes=block_nodes,
            block_arcs=block_arcs,
        )
    return log_likelihood, blank_posteriors, label_posteriors
