"""Small joint networks with targets, their losses by the lean and the full form, and how near two results are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from transformers_fastconformer.losses import (
    JointForm,
    JointNetwork,
    fused_rnnt_loss,
    fused_tdt_loss,
    rnnt_loss,
    tdt_loss,
)

BLANK = 5
TOKENS = 6
SIZE = 7
FRAMES = torch.tensor([9, 5, 8, 1, 0, 0])
TARGETS = torch.tensor([4, 0, 2, 1, 0, 1])
# None: RNN-T. Those of all published checkpoints, one that leaves clips without an alignment, one out of order.
DURATION_LISTS = [None, [0, 1, 2, 3, 4], [0, 2, 4, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8], [1, 2], [4, 0, 1]]

Tensors = tuple[torch.Tensor, ...]


def make_inputs(
    durations: Sequence[int] | None, dtype: torch.dtype = torch.float64, shape: tuple[int, int, int] = (6, 9, 4)
) -> tuple[Tensors, torch.Tensor]:
    """Frames, predictions, weight and bias that want gradients, and targets with -100 as padding."""
    generator = torch.Generator().manual_seed(12)
    batch, frames, labels = shape
    outputs = TOKENS + len(durations or [])
    shapes = ((batch, frames, SIZE), (batch, labels + 1, SIZE), (outputs, SIZE), (outputs,))
    tensors = tuple(torch.randn(*each, generator=generator, dtype=torch.float64).to(dtype) for each in shapes)
    targets = torch.randint(0, BLANK, (batch, labels), generator=generator)
    if batch == len(TARGETS):
        targets[torch.arange(labels)[None] >= TARGETS[:, None]] = -100
    return tuple(tensor.requires_grad_() for tensor in tensors), targets


def join(tensors: Tensors, activation: str = "relu", mask: torch.Tensor | float = 1.0) -> torch.Tensor:
    """The joint network in full."""
    frames, predictions, weight, bias = tensors
    hidden = getattr(torch, activation)(frames[:, :, None] + predictions[:, None])
    return torch.nn.functional.linear(hidden * mask, weight, bias)


def fused(
    tensors: Tensors,
    targets: torch.Tensor,
    durations: Sequence[int] | None,
    frames: torch.Tensor = FRAMES,
    labels: torch.Tensor = TARGETS,
    form: JointForm | None = None,
    **options: Any,
) -> torch.Tensor:
    network = JointNetwork(*tensors, form or JointForm())
    options.setdefault("reduction", "none")
    if durations is None:
        return fused_rnnt_loss(network, targets, frames, labels, BLANK, **options)
    return fused_tdt_loss(network, targets, frames, labels, BLANK, durations, **options)


def full(
    logits: torch.Tensor,
    targets: torch.Tensor,
    durations: Sequence[int] | None,
    frames: torch.Tensor = FRAMES,
    labels: torch.Tensor = TARGETS,
    **options: Any,
) -> torch.Tensor:
    options.setdefault("reduction", "none")
    if durations is None:
        return rnnt_loss(logits, targets, frames, labels, BLANK, **options)
    return tdt_loss(logits, targets, frames, labels, BLANK, durations, **options)


def gradients(losses: torch.Tensor, tensors: Tensors) -> Tensors:
    """Of a sum of the finite losses in which each clip has another weight, one of them below 0."""
    weights = torch.tensor([1.0, -0.5, 2.0, 0.25, 3.0, 1.5], dtype=losses.dtype)[: len(losses)]
    return torch.autograd.grad((losses * weights)[torch.isfinite(losses)].sum(), tensors)


def assert_near(found: Tensors, expected: Tensors, share: float) -> None:
    """Within a share of the largest magnitude."""
    for ours, truth in zip(found, expected, strict=True):
        assert ours.dtype == truth.dtype
        torch.testing.assert_close(ours, truth, rtol=0, atol=share * max(float(truth.abs().max()), 1e-30))


def make_real_size(
    dtype: torch.dtype, durations: Sequence[int] | None, sharpness: float = 1.0
) -> tuple[Tensors, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three clips of up to 120 frames and 30 labels, vocabulary 127; `sharpness` scales the outputs."""
    generator = torch.Generator().manual_seed(3)
    outputs = 128 + len(durations or [])
    shapes = ((3, 120, 64), (3, 31, 64), (outputs, 64), (outputs,))
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors[2] *= sharpness / 8
    targets = torch.randint(0, 127, (3, 30), generator=generator)
    lengths = torch.tensor([120, 99, 64]), torch.tensor([30, 17, 25])
    return tuple(tensor.to(dtype).requires_grad_() for tensor in tensors), targets, *lengths
