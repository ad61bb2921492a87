"""Greedy CTC decoding (Graves et al., 2006). Knows no models: log-probabilities in, tokens and frames out."""

from __future__ import annotations

import numpy as np
import torch

from ..validation import require
from .beam_options import BeamOptions
from .confidence import ConfidenceOptions, ctc_confidence
from .ctc_beam import search_ctc_paths
from .hypotheses import Hypotheses, TokenTable
from .state import CTCState
from .token_scorer import TokenScorer


def ctc_greedy_decode(
    log_probs: torch.Tensor,
    encoder_lengths: torch.Tensor,
    blank_id: int,
    padding_id: int,
    labels: torch.Tensor | None = None,
) -> Hypotheses:
    """
    Take the best class of each frame, merge repetitions, drop blanks; for the whole batch at once, without a loop.

    Args:
        log_probs: (batch, frames, classes); a token's log-probability is copied from here.
        encoder_lengths: (batch,), frames that count.
        blank_id: Class of the blank.
        padding_id: Fills `tokens` after the last one.
        labels: (batch, frames), class of each frame as `choose_ctc_labels` gives it; None: the best one.
    """
    batch_size, num_frames = log_probs.shape[:2]
    best = _find_best(log_probs) if labels is None else labels  # (batch, frames)
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


def choose_ctc_labels(
    log_probs: torch.Tensor,
    encoder_lengths: torch.Tensor,
    blank_id: int,
    scorer: TokenScorer,
    scorer_states: np.ndarray,
    last_labels: np.ndarray,
) -> torch.Tensor:
    """
    Class of each frame with the scores of phrases or a language model, by the rules of NeMo 3.0.

    Where the best class is the blank or that of the frame before, it stays. Elsewhere a new token begins, and the
    scores decide which: any but that of the frame before (`GreedyBatchedCTCInfer`). Only these frames are looked at,
    and each clip goes from one to the next on its own.

    Args:
        log_probs: (batch, frames, classes).
        encoder_lengths: (batch,), frames that count.
        blank_id: Class of the blank, the last one.
        scorer: The scores.
        scorer_states: (batch, kinds), states before these frames; they are moved on in place.
        last_labels: (batch,), class of the frame before these, the blank at the start.

    Returns:
        (batch, frames)
    """
    batch_size, num_frames = log_probs.shape[:2]
    labels = _find_best(log_probs).cpu().numpy().copy()  # (batch, frames)
    lengths = encoder_lengths.cpu().numpy()
    # Frames in which a token begins, if the frame before has the best class: the next of them from each frame on.
    begins = labels != blank_id
    begins[:, 1:] &= labels[:, 1:] != labels[:, :-1]
    places = np.where(begins, np.arange(num_frames), num_frames)
    following = np.full((batch_size, num_frames + 2), num_frames, dtype=np.int64)
    following[:, :num_frames] = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]
    time, last = np.zeros(batch_size, dtype=np.int64), last_labels.copy()
    clips = np.arange(batch_size)
    while len(clips):
        # `last` is the class of the frame before, which need not be the best one there.
        now = time[clips]
        here = labels[clips, np.minimum(now, num_frames - 1)] if num_frames else now
        is_new = (now < num_frames) & (here != blank_id) & (here != last[clips])
        now = np.where(is_new, now, following[clips, now + 1])
        is_inside = now < lengths[clips]
        clips, now = clips[is_inside], now[is_inside]
        if not len(clips):
            break
        # Beyond the first frame the class of the frame before is the best one.
        before = np.where(now > time[clips], labels[clips, now - 1], last[clips])
        rows = _rows_of(log_probs, clips, now)
        fused = rows.astype(np.float32)
        scorer.add_scores(fused[:, :blank_id], scorer_states[clips])
        repeats = before != blank_id
        fused[np.flatnonzero(repeats), before[repeats]] = -np.inf
        tokens = fused[:, :blank_id].argmax(axis=1)
        labels[clips, now] = tokens
        scorer_states[clips] = scorer.step_rows(scorer_states[clips], tokens)
        last[clips], time[clips] = tokens, now + 1
    return torch.from_numpy(labels).to(log_probs.device)


def _rows_of(log_probs: torch.Tensor, clips: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """(n, classes) of some frames, on the host."""
    if log_probs.device.type == "cpu" and log_probs.dtype == torch.float32:
        return log_probs.detach().numpy()[clips, frames]
    index = (torch.from_numpy(clips).to(log_probs.device), torch.from_numpy(frames).to(log_probs.device))
    return log_probs[index].float().cpu().numpy()


def ctc_decode_frames(
    log_probs: torch.Tensor,
    encoder_lengths: torch.Tensor,
    blank_id: int,
    padding_id: int,
    confidence: ConfidenceOptions | None = None,
    state: CTCState | None = None,
    scorer: TokenScorer | None = None,
    beam: BeamOptions | None = None,
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
        scorer: Scores of phrases or a language model, see `choose_ctc_labels`.
        beam: Options of a beam search, see `search_ctc_paths`; None: greedy decoding.

    Returns:
        The tokens that begin in these frames, with frames counted from the first one given, and the state for the
        frames that follow. Its `revised_scores` hold the confidence of tokens that began earlier and went on here.
        A beam search returns its best texts, those of a clip in consecutive rows, and the state after the best one.
    """
    if beam is not None:
        return _decode_by_beams(log_probs, encoder_lengths, blank_id, padding_id, confidence, state, scorer, beam)
    labels, scorer_states = None, None
    if scorer is not None:
        states = scorer.enter(None if state is None else state.scorer_states, log_probs.shape[0])
        last_labels = _last_labels_of(state, log_probs.shape[0], blank_id)
        labels = choose_ctc_labels(log_probs, encoder_lengths, blank_id, scorer, states, last_labels)
        scorer_states = scorer.leave(states, log_probs.device)
    return _decode_labels(log_probs, encoder_lengths, blank_id, padding_id, confidence, state, labels, scorer_states)


def _decode_by_beams(
    log_probs: torch.Tensor,
    encoder_lengths: torch.Tensor,
    blank_id: int,
    padding_id: int,
    confidence: ConfidenceOptions | None,
    state: CTCState | None,
    scorer: TokenScorer | None,
    beam: BeamOptions,
) -> tuple[Hypotheses, CTCState]:
    """The texts of a beam search, each read like the best classes of greedy decoding."""
    batch_size, count = log_probs.shape[0], beam.num_best
    last_labels = torch.from_numpy(_last_labels_of(state, batch_size, blank_id))
    states = None if state is None else state.scorer_states
    paths, totals, scorer_states = search_ctc_paths(
        log_probs, encoder_lengths, blank_id, beam, last_labels, scorer, states
    )
    rows = [clip for clip in range(batch_size) for _ in range(count)]
    found, state = _decode_labels(
        log_probs[rows] if count > 1 else log_probs,
        encoder_lengths[rows],
        blank_id,
        padding_id,
        confidence,
        None if state is None else state.select(rows),
        paths.flatten(0, 1),
        None if scorer_states is None else scorer_states[rows],
    )
    revised_scores = state.revised_scores
    state = state.select(range(0, len(rows), count))
    state.revised_scores = None if revised_scores is None else revised_scores[::count]
    return found._replace(totals=totals.flatten()), state


def _last_labels_of(state: CTCState | None, batch_size: int, blank_id: int) -> np.ndarray:
    """Class of the frame before, (batch,), the blank at the start of a clip."""
    kept = () if state is None else state.labels
    if state is not None:
        lengths = [(len(labels), len(frames)) for labels, frames in zip(kept, state.last_frames, strict=True)]
        is_class = all(int(label) in range(blank_id + 1) for labels in kept for label in labels)
        is_known = is_class and all(count == expected for count, expected in lengths)
        require(is_known, "last_labels", kept, "a class for each of last_frames")
    last = [int(labels[-1]) if len(labels) else blank_id for labels in kept] or [blank_id] * batch_size
    return np.array(last, dtype=np.int64)


def _decode_labels(
    log_probs: torch.Tensor,
    encoder_lengths: torch.Tensor,
    blank_id: int,
    padding_id: int,
    confidence: ConfidenceOptions | None,
    state: CTCState | None,
    labels: torch.Tensor | None,
    scorer_states: torch.Tensor | None,
) -> tuple[Hypotheses, CTCState]:
    """Read the classes of the frames, (batch, frames), or the best ones, after those that a state kept."""
    rows = [row[:length] for row, length in zip(log_probs, encoder_lengths.tolist(), strict=True)]
    joined, joined_lengths = log_probs, encoder_lengths.to(log_probs.device)
    if state is not None:
        # The frames before are decoded again, and the token that they would give is dropped.
        rows = [torch.cat([last, row]) for last, row in zip(state.last_frames, rows, strict=True)]
        joined = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (batch, frames, classes)
        joined_lengths = torch.tensor([row.shape[0] for row in rows], dtype=torch.int64, device=log_probs.device)
    if labels is not None and state is not None:
        labels = _join_labels(state, labels, encoder_lengths, blank_id)
    found = ctc_greedy_decode(joined, joined_lengths, blank_id, padding_id, labels)
    if confidence is not None:
        scores = ctc_confidence(joined, joined_lengths, found.frame_indices, found.token_lengths, confidence, labels)
        found = found._replace(scores=scores)
    kept = [
        _count_frames_to_keep(row, None if labels is None else labels[clip, : row.shape[0]], blank_id, confidence)
        for clip, row in enumerate(rows)
    ]
    last_frames = tuple(row[row.shape[0] - count :].clone() for row, count in zip(rows, kept, strict=True))
    last_labels: tuple[torch.Tensor, ...] = ()
    if labels is not None:
        last_labels = tuple(
            labels[clip, row.shape[0] - count : row.shape[0]].clone()
            for clip, (row, count) in enumerate(zip(rows, kept, strict=True))
        )
    revised_scores = None
    if state is not None:
        num_before = torch.tensor(
            [last.shape[0] for last in state.last_frames], dtype=torch.int64, device=log_probs.device
        )
        revised_scores = _scores_of_first(found, num_before)
        found = _drop_before(found, num_before, padding_id)
    return found, CTCState(last_frames, revised_scores, last_labels, scorer_states)


def _join_labels(state: CTCState, labels: torch.Tensor, encoder_lengths: torch.Tensor, blank_id: int) -> torch.Tensor:
    """Classes of the frames that a state kept and of those after them, (batch, both)."""
    rows = [
        torch.cat([before, row[:length]])
        for before, row, length in zip(state.labels, labels, encoder_lengths.tolist(), strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=blank_id)


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


def _count_frames_to_keep(
    log_probs: torch.Tensor, labels: torch.Tensor | None, blank_id: int, confidence: ConfidenceOptions | None
) -> int:
    """The last of (frames, classes); for confidences, also all frames before it that have the same token."""
    best = [] if confidence is None else (log_probs.argmax(dim=-1) if labels is None else labels).tolist()
    if not best or best[-1] == blank_id:
        return min(1, log_probs.shape[0])
    return next((count for count, token in enumerate(reversed(best)) if token != best[-1]), len(best))


def _find_best(log_probs: torch.Tensor) -> torch.Tensor:
    """Best class of each frame, the first of equal ones. On a CPU by numpy: torch takes five times as long."""
    if log_probs.device.type == "cpu" and log_probs.dtype == torch.float32 and log_probs.shape[-1]:
        return torch.from_numpy(log_probs.detach().numpy().argmax(axis=-1))
    return log_probs.argmax(dim=-1)
