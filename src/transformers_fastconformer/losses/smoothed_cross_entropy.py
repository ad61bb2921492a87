"""Cross entropy with label smoothing, as NeMo 3.0's `SmoothedCrossEntropyLoss` computes it."""

from __future__ import annotations

import torch

# NeMo adds it to the number of tokens.
EPSILON = 1e-6
IGNORED_LABEL = -100


def smoothed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, padding_id: int | None, label_smoothing: float
) -> torch.Tensor:
    """
    Mean loss of all tokens of a batch that are not padding.

    Args:
        logits: (batch, tokens, classes).
        labels: (batch, tokens); -100 and `padding_id` are padding.
        padding_id: Id of the padding; None: only -100 is padding.
        label_smoothing: Share of the probability that is spread over the classes that are not the label.
    """
    is_label = labels != IGNORED_LABEL
    if padding_id is not None:
        is_label = is_label & (labels != padding_id)
    log_probs = logits.float().log_softmax(dim=-1)
    of_labels = log_probs.gather(2, labels.masked_fill(~is_label, 0)[..., None]).squeeze(2)  # (batch, tokens)
    # The mean over all classes holds the label too, whose share the factor takes out again.
    num_classes = logits.shape[-1]
    smoothing = num_classes * label_smoothing / (num_classes - 1) if label_smoothing else 0.0
    losses = (1.0 - smoothing) * of_labels
    if smoothing:
        losses = losses + smoothing * log_probs.mean(dim=-1)
    return -(losses * is_label).sum() / (is_label.sum() + EPSILON)
