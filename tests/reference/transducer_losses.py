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
