"""Losses of a CTC head: of the encoder's output, and of states between the blocks (Lee and Watanabe, 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..losses.ctc import ctc_loss


def layers_to_capture(config: Any, labels: torch.Tensor | None) -> Sequence[int]:
    """Blocks whose output a loss is computed of; none without labels."""
    return () if labels is None else config.intermediate_ctc_layers or ()


def head_loss(
    config: Any,
    logits: torch.Tensor,
    lengths: torch.Tensor,
    targets: torch.Tensor,
    target_lengths: torch.Tensor,
) -> torch.Tensor:
    """
    CTC loss of a batch with the options of a configuration, in float32.

    Args:
        config: Of a model with a CTC head.
        logits: (batch, frames, vocab_size).
        lengths: (batch,), frames that count.
        targets: (batch, tokens), see `split_labels`.
        target_lengths: (batch,), tokens that count.
    """
    return ctc_loss(
        logits,
        targets,
        lengths,
        target_lengths,
        config.blank_token_id,
        config.ctc_loss_reduction,
        config.ctc_zero_infinity,
    )


def add_intermediate_losses(
    config: Any,
    ctc_head: Any,
    loss: torch.Tensor,
    encoded: Any,
    targets: torch.Tensor,
    target_lengths: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Mix the losses of captured states into a loss, as NeMo 3.0's `InterCTCMixin` does.

    Args:
        config: Of a model with a CTC head.
        ctc_head: The layer from states to logits.
        loss: The loss so far, of which what the weights leave of 1 stays.
        encoded: Output of the encoder with the states of `layers_to_capture`.
        targets: (batch, tokens), see `split_labels`.
        target_lengths: (batch,), tokens that count.

    Returns:
        The loss, and those of the layers without gradients, (layers,); None without such layers.
    """
    if encoded.captured_states is None:
        return loss, None
    losses = [
        head_loss(config, ctc_head(states), lengths, targets, target_lengths)
        for states, lengths in zip(encoded.captured_states, encoded.captured_lengths, strict=True)
    ]
    weights = config.intermediate_ctc_weights
    total = (1.0 - sum(weights)) * loss
    for weight, intermediate in zip(weights, losses, strict=True):
        total = total + weight * intermediate
    return total, torch.stack(losses).detach()
