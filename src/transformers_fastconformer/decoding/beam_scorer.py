"""Scores of phrases and language model for the texts of a beam search."""

from __future__ import annotations

import numpy as np
import torch

from .beam_options import BeamOptions
from .token_scorer import TokenScorer


def is_on_host(device: torch.device) -> bool:
    """True where shapes that depend on values cost nothing."""
    return device.type == "cpu"


class BeamScorer:
    """
    A `TokenScorer` with the states of all texts; rows are those of clips times beams.

    Args:
        scorer: The scores.
        states: (batch, kinds), states of the clips, see `TokenScorer`; None at their start.
        batch_size: Number of clips.
        options: How many texts a clip has, and how scores are added.
        device: Where the search runs. On a CPU the tables are read by NumPy, which is faster for few rows.
    """

    def __init__(
        self,
        scorer: TokenScorer,
        states: torch.Tensor | None,
        batch_size: int,
        options: BeamOptions,
        device: torch.device,
    ) -> None:
        self.scorer, self.options, self.device = scorer, options, device
        self.is_on_host = is_on_host(device)
        self.batch_size, self.num_beams = batch_size, options.num_beams
        self.states = torch.from_numpy(scorer.enter(states, batch_size)).to(device)
        self.states = self.states.repeat_interleave(options.num_beams, dim=0)  # (rows, kinds)
        self.weights = torch.from_numpy(scorer.weights(batch_size)).to(device).repeat_interleave(options.num_beams)

    def scores_of(self, rows: torch.Tensor, vocab_size: int) -> torch.Tensor:
        """Scores of all tokens after the texts of some rows, (n, vocabulary)."""
        states = self.states[rows]
        if not self.is_on_host:
            return self.scorer.scores(states)
        values = np.zeros((len(rows), vocab_size), dtype=np.float32)
        self.scorer.add_scores(values, states.numpy())
        return torch.from_numpy(values)

    def fuse(self, log_probs: torch.Tensor, rows: torch.Tensor, blank_id: int, least_rest: float) -> torch.Tensor:
        """
        Log-probabilities (n, tokens and blank) of some rows with the scores, a new tensor.

        Args:
            log_probs: The blank is the last class.
            rows: (n,).
            blank_id: Class of the blank.
            least_rest: Least probability of all tokens together that is reckoned with.
        """
        fused = log_probs.clone()
        fused[:, :blank_id] += self.scores_of(rows, blank_id)
        if self.options.blank_lm_score_mode == "lm_weighted_full":
            weights = self.weights[rows]
            blank = log_probs[:, blank_id]
            rest = torch.log1p(-blank.exp().clamp(max=1.0 - least_rest))
            fused[:, :blank_id] += (rest * weights)[:, None]
            fused[:, blank_id] = blank * (1.0 + weights)
        return fused

    def reorder(self, parents: torch.Tensor) -> None:
        """Take over the states of other rows, (rows,)."""
        self.states = self.states[parents]

    def step(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Move some rows on by a token each, both (n,)."""
        before = self.states[rows]
        if self.is_on_host:
            after = torch.from_numpy(self.scorer.step_rows(before.numpy(), tokens.numpy()))
        else:
            after = self.scorer.step(before, tokens)
        self.states[rows] = after

    def step_where(self, is_token: torch.Tensor, tokens: torch.Tensor) -> None:
        """Move the rows with a token on, both (rows,); all are computed, so that shapes do not depend on values."""
        self.states = torch.where(is_token[:, None], self.scorer.step(self.states, tokens), self.states)

    def ends(self) -> torch.Tensor:
        """Scores of the end of all texts by language models, (rows,)."""
        return self.scorer.end_scores(self.states)

    def leave(self, rows: torch.Tensor) -> torch.Tensor:
        """States of one row for each clip, as `TokenScorer` counts them, (batch, kinds)."""
        return self.scorer.leave(self.states[rows].cpu().numpy(), self.device)
