"""A limit to gradients of logits before the reduction."""

from __future__ import annotations

import torch

from transformers_fastconformer.losses.gradient_clamp import GradientClamp


def test_gradients_are_limited_before_they_are_scaled() -> None:
    logits = torch.tensor([[0.1, 5.0], [-3.0, 0.2]], requires_grad=True)
    clamp = GradientClamp(1.0)
    losses = clamp.of_losses(clamp.of_logits(logits).square().sum(1))
    (losses * torch.tensor([10.0, 0.5])).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[2.0, 10.0], [-0.5, 0.2]]))
    torch.testing.assert_close(losses.detach(), logits.detach().square().sum(1))


def test_without_a_limit_nothing_is_in_the_way() -> None:
    logits = torch.ones(2, 3, requires_grad=True)
    clamp = GradientClamp(0.0)
    assert clamp.of_logits(logits) is logits
    assert clamp.of_losses(logits) is logits
