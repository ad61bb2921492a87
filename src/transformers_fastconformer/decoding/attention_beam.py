"""
Beam search with an attention decoder by NeMo 3.0's rules (`BeamSearchSequenceGenerator`), for clips of any number.

Texts that have ended keep their place in the beam and compete with those that go on; a text of n tokens has its
score divided by ((5 + n) / 6) ** length_penalty. Each clip is searched as NeMo searches it by itself. Unlike NeMo a
text ends also where the end is its first token.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol, TypeVar

import torch

from .attention_greedy import DecoderState, Score, Step, without_trailing_padding
from .hypotheses import Hypotheses

# NeMo weighs the continuations of a text that has ended with it, all but the first.
ENDED_WEIGHT = 1.0 + 10000.0


class BeamState(DecoderState, Protocol):
    """Past of the texts of a batch, those of a clip in consecutive rows."""

    def reorder(self: State, parents: torch.Tensor) -> State:
        """The state of texts that go on from others of their clip: (rows,), the row of each; the frames stay."""


State = TypeVar("State", bound=BeamState)


def decode_attention_by_beams(
    step: Step[State],
    state: State,
    prompts: torch.Tensor,
    max_new_tokens: torch.Tensor,
    end_ids: Collection[int],
    padding_id: int,
    beam_size: int,
    length_penalty: float = 0.0,
    score: Score | None = None,
) -> Hypotheses:
    """
    Find the best text of each clip among those that a beam holds.

    Args:
        step, state, prompts, max_new_tokens, end_ids, padding_id: As in `decode_attention_greedily`.
        beam_size: Texts of each clip.
        length_penalty: Exponent of the penalty.
        score: Confidence in each token of the text that is found, where it is wanted.

    Returns:
        The hypotheses, without prompt and end.
    """
    batch_size, device = prompts.shape[0], prompts.device
    limits = max_new_tokens.tolist()
    nothing = torch.empty(0, dtype=torch.float32, device=device)
    best = [_Found(prompts.new_empty(0), nothing, nothing) for _ in range(batch_size)]
    clips = [clip for clip in range(batch_size) if limits[clip] > 0]
    if clips:
        rows = torch.tensor(clips, dtype=torch.int64, device=device)
        if len(clips) < batch_size:
            state = state.select(rows)
        logits, state = step(prompts[rows], state)
        log_probs, tokens = _top(logits, beam_size)  # (clips, beam)
        search = _Search(clips, tokens[..., None], log_probs[..., None], log_probs, prompts.shape[1], score)
        search.rate(logits.repeat_interleave(beam_size, dim=0))
        state = state.select(_repeat(len(clips), beam_size, device))
        ends = torch.tensor(sorted(end_ids), dtype=torch.int64, device=device)
        while True:
            is_ended = torch.isin(search.texts, ends)  # (clips, beam, tokens)
            leaving = [
                row
                for row, is_over in enumerate(is_ended[..., -1].all(dim=1).tolist())
                if is_over or search.texts.shape[2] >= limits[search.clips[row]]
            ]
            for row in leaving:
                best[search.clips[row]] = search.best_of(row, ends, length_penalty)
            staying = [row for row in range(len(search.clips)) if row not in leaving]
            if not staying:
                break
            if leaving:
                rows = torch.tensor(staying, dtype=torch.int64, device=device)
                state = state.select(_rows_of(rows, beam_size))
                search = search.select(rows)
            logits, state = step(search.texts[:, :, -1].flatten()[:, None], state)
            parents = search.extend(logits, ends, padding_id, length_penalty)
            state = state.reorder(parents)
    return _collect(best, end_ids, padding_id, device, with_scores=score is not None)


class _Found(NamedTuple):
    """Tokens of a text, their log-probabilities, and the confidences in them or zeros, (tokens,) each."""

    tokens: torch.Tensor
    log_probs: torch.Tensor
    confidences: torch.Tensor


class _Search:
    """The beams of the clips that have not ended."""

    def __init__(
        self,
        clips: list[int],
        texts: torch.Tensor,
        log_probs: torch.Tensor,
        scores: torch.Tensor,
        prompt_tokens: int,
        score: Score | None,
    ) -> None:
        self.clips, self.prompt_tokens, self.score = clips, prompt_tokens, score
        self.texts, self.log_probs = texts, log_probs  # (clips, beam, tokens)
        self.confidences = torch.zeros_like(log_probs)
        self.scores = scores  # (clips, beam)

    def select(self, rows: torch.Tensor) -> _Search:
        clips = [self.clips[row] for row in rows.tolist()]
        selected = _Search(
            clips, self.texts[rows], self.log_probs[rows], self.scores[rows], self.prompt_tokens, self.score
        )
        selected.confidences = self.confidences[rows]
        return selected

    def rate(self, logits: torch.Tensor) -> None:
        """Keep the confidences in the last tokens, by the scores (rows, classes) that each was taken from."""
        if self.score is not None:
            tokens = self.texts[..., -1]
            self.confidences[..., -1] = self.score(logits, tokens.flatten()).view_as(tokens)

    def extend(self, logits: torch.Tensor, ends: torch.Tensor, padding_id: int, length_penalty: float) -> torch.Tensor:
        """Put the best continuations in the place of the texts; returns the rows that they continue."""
        num_clips, beam_size, count = self.texts.shape
        found, tokens = (part.view(num_clips, beam_size, beam_size) for part in _top(logits, beam_size))
        is_ended = torch.isin(self.texts[..., -1], ends)[..., None]  # (clips, beam, 1)
        weights = torch.full((beam_size,), ENDED_WEIGHT, dtype=found.dtype, device=found.device)
        weights[0] = 0.0
        added = torch.where(is_ended, found * weights, found)
        tokens = torch.where(is_ended, padding_id, tokens)
        # In its first step NeMo counts the prompt and two tokens, and later one more than those that are not ends.
        penalties = self._penalties(ends, length_penalty) if count > 1 else self._penalty(count + 1, length_penalty)
        scores = (self.scores[..., None] + added) / penalties[..., None]
        scores, chosen = scores.flatten(1).topk(beam_size, dim=1)  # (clips, beam)
        # NeMo multiplies by the penalty of the place, not by that of the text that is continued.
        self.scores = scores * penalties
        parents = chosen // beam_size
        gathered = parents[..., None].expand(-1, -1, count)
        new = tokens.flatten(1).gather(1, chosen)[..., None]
        new_log_probs = torch.where(is_ended, 0.0, found).flatten(1).gather(1, chosen)[..., None]
        self.texts = torch.cat([self.texts.gather(1, gathered), new], dim=2)
        self.log_probs = torch.cat([self.log_probs.gather(1, gathered), new_log_probs], dim=2)
        self.confidences = torch.cat([self.confidences.gather(1, gathered), torch.zeros_like(new_log_probs)], dim=2)
        first = torch.arange(num_clips, dtype=torch.int64, device=logits.device)[:, None] * beam_size
        rows = (first + parents).flatten()
        if self.score is not None:
            self.rate(logits[rows])
        return rows

    def best_of(self, row: int, ends: torch.Tensor, length_penalty: float) -> _Found:
        """The best text of a clip."""
        count = self.texts.shape[2]
        penalties = self._penalties(ends, length_penalty) if count > 1 else self._penalty(count + 1, length_penalty)
        place = int((self.scores / penalties)[row].argmax())
        return _Found(self.texts[row, place], self.log_probs[row, place], self.confidences[row, place])

    def _penalties(self, ends: torch.Tensor, length_penalty: float) -> torch.Tensor:
        """Penalty of each text, (clips, beam)."""
        lengths = 1 + self.prompt_tokens + (~torch.isin(self.texts, ends)).sum(dim=2)
        return ((5 + lengths) / 6).pow(length_penalty)

    def _penalty(self, num_tokens: int, length_penalty: float) -> torch.Tensor:
        """Penalty of texts of so many tokens after the prompt, (clips, beam)."""
        lengths = torch.full_like(self.scores, self.prompt_tokens + num_tokens)
        return ((5 + lengths) / 6).pow(length_penalty)


def _top(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best log-probabilities of each row and their classes, (rows, count)."""
    found, classes = logits.float().log_softmax(dim=-1).topk(count, dim=-1)
    return found, classes


def _repeat(num_clips: int, beam_size: int, device: torch.device) -> torch.Tensor:
    return torch.arange(num_clips, dtype=torch.int64, device=device).repeat_interleave(beam_size)


def _rows_of(clips: torch.Tensor, beam_size: int) -> torch.Tensor:
    """Rows of the beams of clips."""
    places = torch.arange(beam_size, dtype=torch.int64, device=clips.device)
    return (clips[:, None] * beam_size + places).flatten()


def _collect(
    best: list[_Found], ends: Collection[int], padding_id: int, device: torch.device, with_scores: bool
) -> Hypotheses:
    """Tokens before the first end of each text, in one table."""
    counts = []
    for found in best:
        values = found.tokens.tolist()
        counts.append(next((place for place, token in enumerate(values) if token in ends), len(values)))
    longest = max(counts, default=0)
    table = torch.full((len(best), longest), padding_id, dtype=torch.int64, device=device)
    log_probs = torch.zeros(len(best), longest, dtype=torch.float32, device=device)
    confidences = torch.zeros_like(log_probs)
    for row, (found, count) in enumerate(zip(best, counts, strict=True)):
        table[row, :count], log_probs[row, :count] = found.tokens[:count], found.log_probs[:count]
        confidences[row, :count] = found.confidences[:count]
    lengths = torch.tensor(counts, dtype=torch.int64, device=device)
    scores = confidences if with_scores else None
    hypotheses = Hypotheses(table, lengths, torch.zeros_like(table), log_probs, None, scores)
    return without_trailing_padding(hypotheses, padding_id)
