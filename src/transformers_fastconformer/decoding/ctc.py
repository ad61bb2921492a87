"""Greedy CTC decoding (Graves et al., 2006). Knows no models: log-probabilities in, tokens and frames out."""

from __future__ import annotations

from typing import NamedTuple

import torch


class CTCHypotheses(NamedTuple):
    """
    Tokens of a batch, padded on the right.

    Args:
        tokens: (batch, tokens), blanks and repetitions collapsed; `padding_id` behind them.
        token_lengths: (batch,).
        frame_indices: (batch, tokens), first frame of each token; 0 in the padding.
        log_probs: (batch, tokens), log-probability of each token in that frame; 0 in the padding.
        scores: (batch, tokens), what was made of each token's frames beside it, such as confidences.
    """

    tokens: torch.Tensor
    token_lengths: torch.Tensor
    frame_indices: torch.Tensor
    log_probs: torch.Tensor
    scores: torch.Tensor | None = None


def ctc_greedy_decode(
    log_probs: torch.Tensor, encoder_lengths: torch.Tensor, blank_id: int, padding_id: int
) -> CTCHypotheses:
    """
    Best class of each frame, repetitions merged, blanks dropped; whole batch at once, without a loop.

    Args:
        log_probs: (batch, frames, classes); a token's log-probability is copied from here.
        encoder_lengths: (batch,), frames that count.
        blank_id: Class of the blank.
        padding_id: Fills `tokens` behind the last one.
    """
    batch_size, num_frames = log_probs.shape[:2]
    best = _find_best(log_probs)  # (batch, frames)
    best_log_probs = log_probs.gather(2, best[..., None])[..., 0]
    previous = torch.nn.functional.pad(best, (1, 0), value=blank_id)[:, :num_frames]
    frames = torch.arange(num_frames, device=best.device).expand(batch_size, -1)
    is_token = (best != blank_id) & (best != previous) & (frames < encoder_lengths[:, None])
    token_lengths = is_token.sum(dim=-1)
    num_tokens = int(token_lengths.max()) if batch_size else 0

    # Every token goes to its rank in its clip; everything else to one column more, which is cut off.
    column = torch.where(is_token, is_token.cumsum(dim=-1) - 1, num_tokens)

    def collect(values: torch.Tensor, fill: int | float) -> torch.Tensor:
        collected = values.new_full((batch_size, num_tokens + 1), fill)
        collected.scatter_(1, column, values)
        return collected[:, :num_tokens]

    return CTCHypotheses(
        tokens=collect(best, padding_id),
        token_lengths=token_lengths,
        frame_indices=collect(frames, 0),
        log_probs=collect(best_log_probs, 0.0),
    )


def _find_best(log_probs: torch.Tensor) -> torch.Tensor:
    """Best class of each frame, the first of equal ones. On a CPU by numpy: torch takes five times as long."""
    if log_probs.device.type == "cpu" and log_probs.dtype == torch.float32 and log_probs.shape[-1]:
        return torch.from_numpy(log_probs.detach().numpy().argmax(axis=-1))
    return log_probs.argmax(dim=-1)
