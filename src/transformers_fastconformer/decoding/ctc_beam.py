"""
Beam search for CTC by the rules of NeMo 3.0 (`BatchedBeamCTCComputer`), for a whole batch.

A text is known by its tokens and by the class of its last frame. Equal ones become one, with the better of their
scores, so that a text's score is that of its best path: the classes of all frames. That path is the result, which the
rules of greedy decoding then read. Unlike NeMo, frames of padding change no score.
"""

from __future__ import annotations

import torch

from .beam_history import rank_beams
from .beam_options import BeamOptions
from .beam_scorer import BeamScorer
from .token_scorer import TokenScorer
from .transducer_beam import HASH_FACTOR


def search_ctc_paths(
    log_probs: torch.Tensor,
    encoder_lengths: torch.Tensor,
    blank_id: int,
    beam: BeamOptions,
    last_labels: torch.Tensor,
    scorer: TokenScorer | None = None,
    scorer_states: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """
    Find the paths of the best texts of each clip.

    Args:
        log_probs: (batch, frames, classes).
        encoder_lengths: (batch,), frames that count.
        blank_id: Class of the blank, the last one.
        beam: Options of the search.
        last_labels: (batch,), class of the frame before these, the blank at the start.
        scorer: Scores of phrases and language model, which a token has where it begins.
        scorer_states: (batch, kinds), states before these frames; None at the start.

    Returns:
        Class of each frame (batch, num_best, frames), the blank where there are fewer texts; scores of the texts
        (batch, num_best), -inf there, with that of the end of the text by a language model; and the states of the
        scorer after the best one, (batch, kinds).
    """
    search = _Search(log_probs.float(), encoder_lengths, blank_id, beam, last_labels)
    if scorer is not None:
        search.scorer = BeamScorer(scorer, scorer_states, log_probs.shape[0], beam, log_probs.device)
    for frame in range(int(encoder_lengths.max()) if len(encoder_lengths) else 0):
        search.step(frame)
    return search.finish()


class _Search:
    """Texts of all clips; their tensors are (batch, beams)."""

    def __init__(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        blank_id: int,
        beam: BeamOptions,
        last_labels: torch.Tensor,
    ) -> None:
        self.log_probs, self.blank_id, self.beam = log_probs, blank_id, beam
        device = log_probs.device
        self.lengths = lengths.to(device)
        self.shape = (log_probs.shape[0], beam.num_beams)
        self.texts = torch.zeros(self.shape, dtype=torch.int64, device=device)  # their hashes
        self.token_lengths = torch.zeros_like(self.texts)
        self.last = last_labels.to(device)[:, None].repeat(1, beam.num_beams)
        self.scores = torch.full(self.shape, -torch.inf, dtype=torch.float32, device=device)
        self.scores[:, 0] = 0.0
        rows = torch.arange(self.shape[0], dtype=torch.int64, device=device)
        self.first_rows = rows[:, None] * beam.num_beams
        self.same_beams = torch.arange(beam.num_beams, dtype=torch.int64, device=device).expand(self.shape)
        # New tokens of a text that may stay: the best, one more for the case that the last one is among them.
        self.num_tokens = min(beam.num_beams + 1, blank_id)
        self.best = log_probs[..., :blank_id].topk(self.num_tokens, dim=2)  # (batch, frames, tokens)
        self.parents: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []
        self.scorer: BeamScorer | None = None

    def step(self, frame: int) -> None:
        is_inside = (frame < self.lengths)[:, None]  # (batch, 1)
        found, labels = self._find_tokens(frame, is_inside)  # (batch, beams, tokens)
        here = self.log_probs[:, frame]  # (batch, classes)
        blank = here[:, self.blank_id, None].expand(self.shape)
        repeated = torch.where(self.last == self.blank_id, -torch.inf, here.gather(1, self.last))
        same = torch.stack([blank, repeated], dim=2)
        found = torch.cat([found + self.beam.beam_beta, same], dim=2) + self.scores[..., None]
        blanks = torch.full_like(self.last, self.blank_id)
        labels = torch.cat([labels, torch.stack([blanks, self.last], dim=2)], dim=2)

        count = found.shape[2]
        scores, chosen = found.flatten(1).topk(self.shape[1], dim=1)
        scores = scores.masked_fill(scores <= scores[:, :1] - self.beam.beam_threshold, -torch.inf)
        parents = torch.where(is_inside, chosen // count, self.same_beams)
        labels = labels.flatten(1).gather(1, chosen)
        last = self.last.gather(1, parents)
        labels = torch.where(is_inside, labels, last)
        is_new = is_inside & (labels != self.blank_id) & (labels != last)
        texts = self.texts.gather(1, parents)
        self.texts = torch.where(is_new, texts * HASH_FACTOR + labels + 1, texts)
        self.token_lengths = self.token_lengths.gather(1, parents) + is_new
        self.scores = torch.where(is_inside, scores, self.scores)
        self.last = labels
        self._merge()
        self.parents.append(parents)
        self.labels.append(labels)
        if self.scorer is not None:
            self.scorer.reorder((self.first_rows + parents).view(-1))
            tokens = torch.where(is_new, labels, 0).view(-1)
            is_new = is_new & (self.scores > -torch.inf)
            if self.scorer.is_on_host:
                rows = is_new.view(-1).nonzero()[:, 0]
                if len(rows):
                    self.scorer.step(rows, tokens[rows])
            else:
                self.scorer.step_where(is_new.view(-1), tokens)

    def _find_tokens(self, frame: int, is_inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the best new tokens of each text, with scores, and these tokens."""
        if self.scorer is None:
            found = self.best.values[:, frame, None].expand(*self.shape, -1)
            labels = self.best.indices[:, frame, None].expand(*self.shape, -1)
            return found.masked_fill(labels == self.last[..., None], -torch.inf), labels
        is_text = (is_inside & (self.scores > -torch.inf)).view(-1)
        rows = is_text.nonzero()[:, 0] if self.scorer.is_on_host else (self.first_rows + self.same_beams).view(-1)
        fused = self.log_probs[rows // self.shape[1], frame, : self.blank_id] + self.scorer.scores_of(
            rows, self.blank_id
        )
        last = self.last.view(-1, 1)[rows]
        # The blank stands in the place of no token.
        is_last = torch.arange(self.blank_id, dtype=torch.int64, device=fused.device) == last
        best, tokens = fused.masked_fill(is_last, -torch.inf).topk(self.num_tokens, dim=1)
        found = best.new_full((is_text.shape[0], self.num_tokens), -torch.inf).index_copy_(0, rows, best)
        labels = tokens.new_zeros(found.shape).index_copy_(0, rows, tokens)
        return found.view(*self.shape, -1), labels.view(*self.shape, -1)

    def _merge(self) -> None:
        """Drop texts that a better one is equal to."""
        is_same = self.texts[:, :, None] == self.texts[:, None]  # (batch, beams, beams)
        is_same &= self.token_lengths[:, :, None] == self.token_lengths[:, None]
        is_same &= self.last[:, :, None] == self.last[:, None]
        # Scores fall from the first to the last.
        self.scores = self.scores.masked_fill(is_same.tril(diagonal=-1).any(dim=2), -torch.inf)

    def finish(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        scores = self.scores
        if self.scorer is not None:
            scores = scores + self.scorer.ends().view(self.shape)
        chosen, totals = rank_beams(scores, self.token_lengths, self.beam.num_best, normalizes_length=False)
        num_frames = self.log_probs.shape[1]
        paths = chosen.new_full((num_frames, *chosen.shape), self.blank_id)
        here = chosen
        for frame in range(len(self.parents) - 1, -1, -1):
            paths[frame] = self.labels[frame].gather(1, here)
            here = self.parents[frame].gather(1, here)
        paths = paths.permute(1, 2, 0).masked_fill((totals == -torch.inf)[..., None], self.blank_id)
        states = None if self.scorer is None else self.scorer.leave((self.first_rows + chosen[:, :1])[:, 0])
        return paths.contiguous(), totals, states
