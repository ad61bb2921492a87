"""One loss of those of the clips of a batch, by the names that configurations have."""

from __future__ import annotations

from torch import Tensor

from ..configuration_training import LOSS_REDUCTIONS
from ..validation import require_choice
from .lattice import reduce_losses

# The names of `reduce_losses`, which are NeMo's.
_RULES = dict(zip(LOSS_REDUCTIONS, ("mean_batch", "mean", "mean_volume", "sum"), strict=True))


def reduce_clips(losses: Tensor, target_lengths: Tensor, reduction: str) -> Tensor:
    """
    Reduce the losses of clips to a scalar.

    Args:
        losses: (batch,).
        target_lengths: (batch,), tokens of each clip.
        reduction: One of `LOSS_REDUCTIONS`.

    Raises:
        ValueError: for another reduction.
    """
    require_choice("reduction", reduction, LOSS_REDUCTIONS)
    return reduce_losses(losses, target_lengths, _RULES[reduction])
