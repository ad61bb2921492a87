"""The loss of the Token-and-Duration Transducer (Xu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradient_clamp import GradientClamp
from .lattice import (
    AlignmentLogLikelihood,
    TokenLogProbabilities,
    check_durations,
    check_loss_inputs,
    fill_padding,
    reduce_losses,
)
from .rnnt import rnnt_loss


def tdt_loss(
    joint_logits: Tensor,
    targets: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_id: int,
    durations: Sequence[int],
    sigma: float = 0.0,
    omega: float = 0.0,
    reduction: str = "mean_batch",
    fastemit_lambda: float = 0.0,
    clamp: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Negative log-likelihood of the targets under a token-and-duration transducer, summed over all alignments.

    Tokens and durations are normalised separately. Blanks of duration 0 are not arcs: a blank must move on. Checked
    against `TDTLossPytorch` of NeMo 3.0.0, which floors log-probabilities at -1000 where this one has -inf. Works on
    any device, in float32 (float64 for float64 input). The gradient is analytic and can be taken once. A clip without
    a possible alignment (for example one frame and durations 0, 2, 4) has an infinite loss and a gradient of exactly
    zero.

    Args:
        joint_logits: Unnormalised outputs of the joint network, (batch, frames, targets + 1, tokens + durations): the
            tokens with the blank first, then one output for each duration.
        targets: Token ids, (batch, targets). Values beyond `target_lengths` are not looked at; -100 is fine there.
        encoder_lengths: Valid frames of each clip, (batch,).
        target_lengths: Valid targets of each clip, (batch,). May be zero.
        blank_id: Index of the blank among the tokens.
        durations: The duration in frames that each duration output stands for, such as [0, 1, 2, 3, 4] or [0, 2, 4,
            8].
        sigma: Under-normalisation of the tokens: subtracted from every token log-probability, so that alignments of
            many short steps cost more. NeMo's recipes use 0.02 to 0.05.
        omega: Chance that a call computes the plain RNN-T loss of the token outputs (without `sigma`, leaving the
            durations without a gradient). One draw decides for the whole batch, as in NeMo.
        reduction: `mean_batch` (mean over clips), `mean` (each loss divided by its number of targets, then mean),
            `mean_volume` (sum of losses over sum of targets), `sum` or `none`, as in NeMo.
        fastemit_lambda: Strength of FastEmit. It scales the gradient of emitting a label by 1 + lambda and, as in
            NeMo, the reported loss too.
        clamp: As in `rnnt_loss`; duration outputs have no limit, as in NeMo 3.0.
        generator: Source of the draw for `omega`, on the CPU; the default generator if None.

    Returns:
        A scalar, or (batch,) for `none`.
    """
    values = check_durations(durations)
    tokens = joint_logits.shape[-1] - len(values)
    check_loss_inputs(joint_logits, targets, encoder_lengths, target_lengths, blank_id, tokens, reduction)
    if omega and float(torch.rand((), generator=generator, dtype=torch.float32, device="cpu")) < omega:
        return rnnt_loss(
            *(joint_logits[..., :tokens], targets, encoder_lengths, target_lengths, blank_id),
            *(reduction, fastemit_lambda, clamp),
        )
    logits = joint_logits if joint_logits.dtype == torch.float64 else joint_logits.float()
    encoder_lengths, target_lengths = encoder_lengths.long(), target_lengths.long()
    clamped = GradientClamp(clamp)
    token_logits = clamped.of_logits(logits[..., :tokens])
    blank, labels = TokenLogProbabilities.apply(token_logits, fill_padding(targets, target_lengths), blank_id)
    duration_logits = clamped.of_logits(logits[..., tokens:], has_limit=False)
    duration_log_probs = F.log_softmax(duration_logits, dim=-1)  # (batch, frames, targets + 1, durations)
    positive = [index for index, value in enumerate(values) if value > 0]
    log_likelihood = AlignmentLogLikelihood.apply(
        (blank - sigma)[..., None] + duration_log_probs[..., positive],
        (labels - sigma)[..., None] + duration_log_probs[:, :, :-1],
        encoder_lengths,
        target_lengths,
        tuple(values[index] for index in positive),
        values,
        fastemit_lambda,
    )
    losses = clamped.of_losses(-log_likelihood)
    if fastemit_lambda:
        losses = losses + fastemit_lambda * losses.detach()
    return reduce_losses(losses, target_lengths, reduction)
