"""Greedy CTC decoding (Graves et al., 2006). Knows no models: log-probabilities in, tokens and frames out."""

from __future__ import annotations

import torch

from .confidence import ConfidenceOptions, ctc_confidence
from .hypotheses import Hypotheses, TokenTable
from .state import CTCState


def ctc_greedy_decode(
    log_probs: torch.Tensor, encoder_lengths: torch.Tensor, blank_id: int, padding_id: int
) -> Hypotheses:
    """
    Take the best class of each frame, merge repetitions, drop blanks; for the whole batch at once, without a loop.

    Args:
        log_probs: (batch, frames, classes); a token's log-probability is copied from here.
        encoder_lengths: (batch,), frames that count.
        blank_id: Class of the blank.
        padding_id: Fills `tokens` after the last one.
    """
    batch_size, num_frames = log_probs.shape[:2]
    best = _find_best(log_probs)  # (batch, frames)
    best_log_probs = log_probs.gather(2, best[..., None])[..., 0]
    previous = torch.nn.functional.pad(best, (1, 0), value=blank_id)[:, :num_frames]
    frames = torch.arange(num_frames, device=best.device).expand(batch_size, -1)
    is_token = (best != blank_id) & (best != previous) & (frames < encoder_lengths[:, None])
    table = TokenTable(is_token.nonzero()[:, 0], batch_size)
    return Hypotheses(
        tokens=table.fill(best[is_token], padding_id),
        token_lengths=table.token_lengths,
        frame_indices=table.fill(frames[is_token]),
        log_probs=table.fill(best_log_probs[is_token]),
    )


def ctc_decode_frames(
    log_probs: torch.Tensor,
    encoder_lengths: torch.Tensor,
    blank_id: int,
    padding_id: int,
    confidence: ConfidenceOptions | None = None,
    state: CTCState | None = None,
) -> tuple[Hypotheses, CTCState]:
    """
    Decode like `ctc_greedy_decode` from where an earlier call ended: a token on both sides of the border is one token.

    Args:
        log_probs: As in `ctc_greedy_decode`.
        encoder_lengths: As in `ctc_greedy_decode`.
        blank_id: As in `ctc_greedy_decode`.
        padding_id: As in `ctc_greedy_decode`.
        confidence: Measure of the confidences that are returned as `scores`; None: no confidences.
        state: State that an earlier call returned for the frames before these; None at the start of the clips.

    Returns:
        The tokens that begin in these frames, with frames counted from the first one given, and the state for the
        frames that follow. Its `revised_scores` hold the confidence of tokens that began earlier and went on here.
    """
    rows = [row[:length] for row, length in zip(log_probs, encoder_lengths.tolist(), strict=True)]
    joined, joined_lengths = log_probs, encoder_lengths.to(log_probs.device)
    if state is not None:
        # The frames before are decoded again, and the token that they would give is dropped.
        rows = [torch.cat([last, row]) for last, row in zip(state.last_frames, rows, strict=True)]
        joined = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (batch, frames, classes)
        joined_lengths = torch.tensor([row.shape[0] for row in rows], dtype=torch.int64, device=log_probs.device)
    found = ctc_greedy_decode(joined, joined_lengths, blank_id, padding_id)
    if confidence is not None:
        scores = ctc_confidence(joined, joined_lengths, found.frame_indices, found.token_lengths, confidence)
        found = found._replace(scores=scores)
    last_frames = tuple(_frames_to_keep(row, blank_id, confidence).clone() for row in rows)
    revised_scores = None
    if state is not None:
        num_before = torch.tensor(
            [last.shape[0] for last in state.last_frames], dtype=torch.int64, device=log_probs.device
        )
        revised_scores = _scores_of_first(found, num_before)
        found = _drop_before(found, num_before, padding_id)
    return found, CTCState(last_frames, revised_scores)


def _scores_of_first(found: Hypotheses, first_frames: torch.Tensor) -> torch.Tensor | None:
    """Score of each clip's first token if it begins before the clip's first frame, (batch,), else NaN."""
    if found.scores is None:
        return None
    none = found.scores.new_full((found.scores.shape[0],), float("nan"))
    if not found.scores.shape[1]:
        return none
    is_earlier = (found.token_lengths > 0) & (found.frame_indices[:, 0] < first_frames)
    return torch.where(is_earlier, found.scores[:, 0], none)


def _drop_before(found: Hypotheses, first_frames: torch.Tensor, padding_id: int) -> Hypotheses:
    """Keep only the tokens from the first frame of each clip on, (batch,), with frames counted from it."""
    places = torch.arange(found.tokens.shape[1], device=found.tokens.device)
    is_kept = (places < found.token_lengths[:, None]) & (found.frame_indices >= first_frames[:, None])
    table = TokenTable(is_kept.nonzero()[:, 0], found.tokens.shape[0])
    return Hypotheses(
        tokens=table.fill(found.tokens[is_kept], padding_id),
        token_lengths=table.token_lengths,
        frame_indices=table.fill((found.frame_indices - first_frames[:, None])[is_kept]),
        log_probs=table.fill(found.log_probs[is_kept]),
        scores=None if found.scores is None else table.fill(found.scores[is_kept]),
    )


def _frames_to_keep(log_probs: torch.Tensor, blank_id: int, confidence: ConfidenceOptions | None) -> torch.Tensor:
    """The last of (frames, classes); for confidences, also all frames before it that have the same token."""
    best = [] if confidence is None else log_probs.argmax(dim=-1).tolist()
    if not best or best[-1] == blank_id:
        return log_probs[-1:]
    repetitions = next((count for count, token in enumerate(reversed(best)) if token != best[-1]), len(best))
    return log_probs[-repetitions:]


def _find_best(log_probs: torch.Tensor) -> torch.Tensor:
    """Best class of each frame, the first of equal ones. On a CPU by numpy: torch takes five times as long."""
    if log_probs.device.type == "cpu" and log_probs.dtype == torch.float32 and log_probs.shape[-1]:
        return torch.from_numpy(log_probs.detach().numpy().argmax(axis=-1))
    return log_probs.argmax(dim=-1)
