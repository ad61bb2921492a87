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


def test_other_logits_are_only_scaled() -> None:
    logits, others = torch.full((2, 2), 3.0, requires_grad=True), torch.full((2, 2), 3.0, requires_grad=True)
    clamp = GradientClamp(1.0)
    products = clamp.of_logits(logits) * clamp.of_logits(others, has_limit=False)
    (clamp.of_losses(products.sum(1)) * torch.tensor([2.0, 0.5])).sum().backward()
    assert logits.grad is not None
    assert others.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[2.0, 2.0], [0.5, 0.5]]))
    torch.testing.assert_close(others.grad, torch.tensor([[6.0, 6.0], [1.5, 1.5]]))


def test_without_a_limit_nothing_is_in_the_way() -> None:
    logits = torch.ones(2, 3, requires_grad=True)
    clamp = GradientClamp(0.0)
    assert clamp.of_logits(logits) is logits
    assert clamp.of_losses(logits) is logits
