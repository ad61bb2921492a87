"""
A limit to the gradient of each clip's loss with respect to logits, before the reduction scales it.

Two identities stand at both ends of a loss. In the backward pass the one after the loss keeps the gradient of each
clip and sends ones instead; the one before it clamps what arrives and scales it by what was kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class GradientClamp:
    """
    The two ends of one loss.

    Args:
        limit: Largest magnitude of the gradient; 0: both ends do nothing.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.scales: Tensor | None = None  # (batch,), from the reduction, while a backward pass is under way

    def of_logits(self, logits: Tensor, has_limit: bool = True) -> Tensor:
        """
        The logits that the loss is to be computed of; all of them must come from here.

        Args:
            logits: (batch, ...).
            has_limit: False for those whose gradient is only to be scaled.
        """
        return _ClampedLogits.apply(logits, self, self.limit if has_limit else math.inf) if self.limit else logits

    def of_losses(self, losses: Tensor) -> Tensor:
        """The losses (batch,) that are to be reduced."""
        return _UnscaledLosses.apply(losses, self) if self.limit else losses


class _ClampedLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, clamp: GradientClamp, limit: float) -> Tensor:
        ctx.clamp, ctx.limit = clamp, limit
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        scales = ctx.clamp.scales.view(-1, *[1] * (gradient.ndim - 1))
        return gradient.clamp(-ctx.limit, ctx.limit).mul_(scales), None, None


class _UnscaledLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor, clamp: GradientClamp) -> Tensor:
        ctx.clamp = clamp
        return losses.view_as(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.clamp.scales = gradient
        return torch.ones_like(gradient), None
