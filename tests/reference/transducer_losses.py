"""Transducer losses written as loops over nodes: slow, plain, the truth that the vectorised ones are held to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def log_add(values: list[float]) -> float:
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(value - top) for value in values))


def tdt_loss_of_clip(
    joint_logits: torch.Tensor, targets: Sequence[int], blank_id: int, durations: Sequence[int], sigma: float = 0.0
) -> float:
    """One clip without padding: joint_logits (frames, targets + 1, tokens + durations)."""
    frames, nodes = joint_logits.shape[0], len(targets) + 1
    tokens = joint_logits.shape[-1] - len(durations)
    token = (joint_logits[..., :tokens].double().log_softmax(-1) - sigma).tolist()
    duration = joint_logits[..., tokens:].double().log_softmax(-1).tolist()
    alpha = [[-math.inf] * nodes for _ in range(frames)]
    alpha[0][0] = 0.0
    ends = []
    for t in range(frames):
        for u in range(nodes):
            entering = [alpha[t][u]]
            for i, d in enumerate(durations):
                if d > 0 and t - d >= 0:
                    entering.append(alpha[t - d][u] + token[t - d][u][blank_id] + duration[t - d][u][i])
                if u > 0 and t - d >= 0:
                    entering.append(
                        alpha[t - d][u - 1] + token[t - d][u - 1][targets[u - 1]] + duration[t - d][u - 1][i]
                    )
            alpha[t][u] = log_add(entering)
    for i, d in enumerate(durations):
        if 0 < d <= frames:
            ends.append(
                alpha[frames - d][nodes - 1]
                + token[frames - d][nodes - 1][blank_id]
                + duration[frames - d][nodes - 1][i]
            )
    return -log_add(ends)


def rnnt_loss_of_clip(joint_logits: torch.Tensor, targets: Sequence[int], blank_id: int) -> float:
    """One clip without padding: joint_logits (frames, targets + 1, tokens)."""
    frames, nodes = joint_logits.shape[0], len(targets) + 1
    token = joint_logits.double().log_softmax(-1).tolist()
    alpha = [[-math.inf] * nodes for _ in range(frames)]
    for t in range(frames):
        for u in range(nodes):
            if t == u == 0:
                alpha[t][u] = 0.0
                continue
            entering = []
            if t > 0:
                entering.append(alpha[t - 1][u] + token[t - 1][u][blank_id])
            if u > 0:
                entering.append(alpha[t][u - 1] + token[t][u - 1][targets[u - 1]])
            alpha[t][u] = log_add(entering)
    return -(alpha[frames - 1][nodes - 1] + token[frames - 1][nodes - 1][blank_id])


def list_alignments(
    frames: int, targets: int, blank_durations: Sequence[int], label_durations: Sequence[int]
) -> list[list[tuple[int, int, bool, int]]]:
    """Every alignment of a clip, one by one: its arcs as (frame, node, is a label, duration)."""

    def go_on(frame: int, node: int) -> list[list[tuple[int, int, bool, int]]]:
        if frame == frames:
            return [[]] if node == targets else []
        if frame > frames:
            return []
        arcs = [(frame + d, node, (frame, node, False, d)) for d in blank_durations if d > 0]
        if node < targets:
            arcs += [(frame + d, node + 1, (frame, node, True, d)) for d in label_durations if frame + d < frames]
        return [[arc, *rest] for next_frame, next_node, arc in arcs for rest in go_on(next_frame, next_node)]

    return go_on(0, 0)


def loss_by_enumeration(
    joint_logits: torch.Tensor,
    targets: Sequence[int],
    blank_id: int,
    durations: Sequence[int] | None,
    sigma: float = 0.0,
) -> torch.Tensor:
    """Loss of one clip as a sum over the alignments of `list_alignments`, with gradient; None is RNN-T."""
    frames = joint_logits.shape[0]
    tokens = joint_logits.shape[-1] - len(durations or [])
    token = joint_logits[..., :tokens].log_softmax(-1) - (0.0 if durations is None else sigma)
    duration = joint_logits[..., tokens:].log_softmax(-1)
    kinds = ([1], [0]) if durations is None else (durations, durations)
    scores = []
    for alignment in list_alignments(frames, len(targets), *kinds):
        score = joint_logits.new_zeros(())
        for frame, node, is_label, arc_duration in alignment:
            score = score + token[frame, node, targets[node] if is_label else blank_id]
            if durations is not None:
                score = score + duration[frame, node, list(durations).index(arc_duration)]
        scores.append(score)
    return -torch.logsumexp(torch.stack(scores), 0)
