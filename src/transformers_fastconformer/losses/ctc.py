"""The CTC loss (Graves et al., 2006), by torch, with the padding conventions of Transformers' labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..configuration_training import LOSS_REDUCTIONS
from ..validation import require_choice
from .reductions import reduce_clips

CTC_REDUCTIONS = (*LOSS_REDUCTIONS, "none")


def ctc_loss(
    logits: Tensor,
    targets: Tensor,
    encoder_lengths: Tensor,
    target_lengths: Tensor,
    blank_id: int,
    reduction: str,
    zero_infinity: bool,
) -> Tensor:
    """
    Compute the CTC loss of a batch.

    Args:
        logits: (batch, frames, classes), before the softmax.
        targets: (batch, tokens), ids below the blank; see `split_labels`.
        encoder_lengths: (batch,), frames that count.
        target_lengths: (batch,), tokens that count.
        blank_id: Class of the blank.
        reduction: One of `LOSS_REDUCTIONS`, or `"none"`.
        zero_infinity: True lets a clip that is too short for its labels add 0 instead of infinity.

    Returns:
        A scalar in float32, or (batch,) for `"none"`.

    Raises:
        ValueError: for another reduction.
    """
    require_choice("reduction", reduction, CTC_REDUCTIONS)
    log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)  # (frames, batch, classes)
    losses = torch.nn.functional.ctc_loss(
        log_probs, targets, encoder_lengths, target_lengths, blank_id, reduction="none", zero_infinity=zero_infinity
    )
    if reduction == "none":
        return losses
    return reduce_clips(losses, target_lengths, reduction)


def split_labels(labels: Tensor, batch_size: int, blank_id: int, padding_id: int) -> tuple[Tensor, Tensor]:
    """
    Split labels into token ids without padding values and their lengths.

    Args:
        labels: (batch, tokens); negative ids (-100), the blank and `padding_id` are padding, which must come last.
        batch_size: Clips that the labels belong to.
        blank_id: Class of the blank; legal ids are below it.
        padding_id: `config.pad_token_id`.

    Returns:
        (batch, tokens), the padding set to 0, and (batch,).

    Raises:
        ValueError: for labels of another shape, ids above the blank and padding between tokens.
    """
    if labels.ndim != 2 or labels.shape[0] != batch_size:
        raise ValueError(f"labels has shape {tuple(labels.shape)}; expected ({batch_size}, tokens), a row a clip.")
    is_token = (labels >= 0) & (labels != blank_id) & (labels != padding_id)
    has_wrong_id = ((labels > blank_id) & is_token).any()
    has_gap = (is_token[:, 1:] & ~is_token[:, :-1]).any()
    problems: list[bool] = torch.stack([has_wrong_id, has_gap]).tolist()  # one wait for the device
    if problems[0]:
        raise ValueError(f"labels hold the id {int(labels.max())}; expected ids below {blank_id}, -100 for padding.")
    if problems[1]:
        raise ValueError("labels have padding between their tokens; expected it after them.")
    return labels.masked_fill(~is_token, 0), is_token.sum(dim=-1)
