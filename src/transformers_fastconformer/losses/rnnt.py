"""The RNN-T loss (Graves 2012)."""

from __future__ import annotations

import torch
from torch import Tensor

from .gradient_clamp import GradientClamp
from .lattice import (
    AlignmentLogLikelihood,
    TokenLogProbabilities,
    check_loss_inputs,
    fill_padding,
    reduce_losses,
)


def rnnt_loss(
    joint_logits: Tensor,
    targets: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_id: int,
    reduction: str = "mean_batch",
    fastemit_lambda: float = 0.0,
    clamp: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of the targets under a transducer, summed over all alignments.

    Checked against `RNNTLossPytorch` and `RNNTLossNumba` of NeMo 3.0.0. Works on any device, in float32 (float64 for
    float64 input). The gradient is analytic and can be taken once. A clip without a possible alignment has an infinite
    loss and a gradient of exactly zero; for RNN-T this is only a clip with targets but without frames.

    Args:
        joint_logits: Unnormalised outputs of the joint network, (batch, frames, targets + 1, tokens).
        targets: Token ids, (batch, targets). Values beyond `target_lengths` are not looked at; -100 is fine there.
        encoder_lengths: Valid frames of each clip, (batch,).
        target_lengths: Valid targets of each clip, (batch,). May be zero.
        blank_id: Index of the blank among the tokens.
        reduction: `mean_batch` (mean over clips), `mean` (each loss divided by its number of targets, then mean),
            `mean_volume` (sum of losses over sum of targets), `sum` or `none`, as in NeMo.
        fastemit_lambda: Strength of FastEmit. It scales the gradient of emitting a label by 1 + lambda and, as in
            NeMo, the reported loss too.
        clamp: Largest magnitude of the gradient of a clip's loss with respect to a logit, before the reduction scales
            it; 0 for no limit.

    Returns:
        A scalar, or (batch,) for `none`.
    """
    check_loss_inputs(
        joint_logits, targets, encoder_lengths, target_lengths, blank_id, joint_logits.shape[-1], reduction
    )
    logits = joint_logits if joint_logits.dtype == torch.float64 else joint_logits.float()
    encoder_lengths, target_lengths = encoder_lengths.long(), target_lengths.long()
    clamped = GradientClamp(clamp)
    logits = clamped.of_logits(logits)
    blank, labels = TokenLogProbabilities.apply(logits, fill_padding(targets, target_lengths), blank_id)
    log_likelihood = AlignmentLogLikelihood.apply(
        blank[..., None], labels[..., None], encoder_lengths, target_lengths, (1,), (0,), fastemit_lambda
    )
    losses = clamped.of_losses(-log_likelihood)
    if fastemit_lambda:
        losses = losses + fastemit_lambda * losses.detach()
    return reduce_losses(losses, target_lengths, reduction)
