"""
Beam search for RNN-T, frame by frame, by adaptive expansion: after each text only those tokens are tried that are
nearly as likely as the best one.

Follows `ModifiedAESBatchedRNNTComputer` (`maes_batch`) of NeMo 3.0, after https://ieeexplore.ieee.org/document/9250505.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .beam_history import NO_LABEL
from .beam_options import BeamOptions
from .hypotheses import Hypotheses
from .state import TransducerState
from .token_scorer import TokenScorer
from .transducer_beam import HASH_FACTOR, TransducerSearch
from .transducer_greedy import JointFunction, PredictFunction

# Least probability of all tokens together that is reckoned with when their scores are weighed against the blank.
LEAST_REST = 1e-6


def transducer_adaptive_beam_decode(
    encoder_frames: torch.Tensor,
    encoder_lengths: torch.Tensor,
    predict: PredictFunction,
    joint: JointFunction,
    blank_id: int,
    padding_id: int,
    beam: BeamOptions,
    state: TransducerState | None = None,
    score: Callable[[torch.Tensor], torch.Tensor] | None = None,
    scorer: TokenScorer | None = None,
) -> tuple[Hypotheses, TransducerState]:
    """
    Find the best texts of each clip.

    Arguments and results are those of `transducer_beam_decode`, without durations; the limit of tokens on a frame is
    `beam.maes_num_steps`.
    """
    with torch.inference_mode():
        search = _AdaptiveSearch(
            encoder_frames,
            encoder_lengths,
            predict,
            joint,
            blank_id,
            beam,
            durations=None,
            max_symbols=None,
            score=score,
        )
        search.start(state, scorer)
        while search.step():
            pass
    return search.finish(padding_id)  # ordinary tensors again


class _AdaptiveSearch(TransducerSearch):
    """Texts of all clips, all on the same frame. Tensors of texts are (batch, beams)."""

    def start(self, state: TransducerState | None, scorer: TokenScorer | None) -> None:
        super().start(state, scorer)
        self.frame = 0
        self.num_steps = int(self.lengths.max()) if len(self.lengths) else 0
        self.num_candidates = min(self.beam.num_beams + self.beam.maes_expansion_beta, self.blank_id + 1)
        self.before_last = torch.zeros_like(self.texts)  # hashes of the texts without their last token
        self.last_tokens = torch.full_like(self.texts, self.blank_id)

    def step(self) -> bool:
        """Search a frame. False after the last one."""
        if self.frame >= self.num_steps:
            return False
        is_active = (self.frame < self.lengths)[:, None].expand(self.shape)
        log_probs, confidences = self._read_frame()
        if self.frame > 0:
            self._add_prefixes(self._fuse(log_probs), is_active)
        is_open = is_active  # texts that have not taken the blank of this frame
        for _ in range(self.beam.maes_num_steps):
            is_open = self._expand(log_probs, confidences, is_open)
            if not bool(is_open.any()):
                break
            log_probs, confidences = self._read_frame()
        else:
            # NeMo adds the model's own probability of the blank, without weights.
            blank = log_probs[:, :, self.blank_id]
            self.scores = torch.where(is_open, self.scores + blank, self.scores)
            here = torch.arange(self.shape[1], dtype=torch.int64, device=self.device).expand(self.shape)
            self._note(here, torch.where(is_open, self.blank_id, NO_LABEL), blank, confidences)
        self.frame += 1
        self.time = self.time + is_active
        return True

    def _read_frame(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities after each text, (batch, beams, tokens and blank), and confidences, if asked for."""
        logits = self.joint(self.frames.index_select(0, self.first_frames + self.frame), self.prediction)
        log_probs = logits.float().log_softmax(dim=-1).view(*self.shape, -1)
        return log_probs, None if self.score is None else self.score(logits).view(self.shape)

    def _fuse(self, log_probs: torch.Tensor) -> torch.Tensor:
        if self.scorer is None:
            return log_probs
        return self.scorer.fuse(log_probs.flatten(0, 1), self.all_rows, self.blank_id, LEAST_REST).view_as(log_probs)

    def _add_prefixes(self, log_probs: torch.Tensor, is_active: torch.Tensor) -> None:
        """Add to a text the probability that a text of the beam becomes it by its last token on this frame."""
        is_prefix = self.before_last[:, :, None] == self.texts[:, None]  # (batch, texts, their prefixes)
        is_prefix &= (self.token_lengths[:, :, None] - 1) == self.token_lengths[:, None]
        last = self.last_tokens[:, None].expand(-1, self.shape[1], -1)  # (batch, prefixes, texts)
        ways = self.scores[:, None] + log_probs.gather(2, last).transpose(1, 2)
        ways = torch.where(is_prefix, ways, -torch.inf).logsumexp(dim=2)
        is_text = is_active & (self.scores > -torch.inf)
        self.scores = torch.where(is_text, torch.logaddexp(self.scores, ways), self.scores)

    def _expand(
        self, log_probs: torch.Tensor, confidences: torch.Tensor | None, is_open: torch.Tensor
    ) -> torch.Tensor:
        """Continue the open texts by a token or the blank; those that are open afterwards, (batch, beams)."""
        batch_size, num_beams = self.shape
        found, labels = self._find_expansions(log_probs)  # (batch, beams, candidates)
        labels = torch.where(is_open[:, :, None], labels, NO_LABEL)
        found = torch.where(is_open[:, :, None], found, -torch.inf)
        found = self._drop_repeated(found, labels)
        found[:, :, -1] = torch.where(is_open, found[:, :, -1], self.scores)
        scores, chosen = found.view(batch_size, -1).topk(num_beams, dim=1)
        parents = chosen // self.num_candidates
        labels = labels.view(batch_size, -1).gather(1, chosen)
        is_token = (labels >= 0) & (labels != self.blank_id)
        plain = log_probs.flatten(1).gather(1, parents * log_probs.shape[2] + labels.clamp(min=0))
        self._note(parents, labels, plain, None if confidences is None else confidences.gather(1, parents))

        self.scores = scores
        texts = self.texts.gather(1, parents)
        self.before_last = torch.where(is_token, texts, self.before_last.gather(1, parents))
        self.last_tokens = torch.where(is_token, labels, self.last_tokens.gather(1, parents))
        self.texts = torch.where(is_token, texts * HASH_FACTOR + labels + 1, texts)
        self.token_lengths = self.token_lengths.gather(1, parents) + is_token
        self.predict_next(parents, labels, is_token)
        # By places of the beam, as in NeMo: a text that comes to the place of one that has its blank needs none.
        return is_open & is_token

    def _find_expansions(self, log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of the texts with their best labels, -inf for those far below the best one, and the labels."""
        is_early = self.scorer is not None and self.beam.pruning_mode == "early"
        chosen_by = log_probs if is_early else self._fuse(log_probs)
        found, labels = chosen_by.topk(self.num_candidates, dim=2)
        is_far = found <= found[:, :, :1] - self.beam.maes_expansion_gamma
        if is_early:
            found = self._fuse(log_probs).gather(2, labels)
        return (self.scores[:, :, None] + found).masked_fill(is_far, -torch.inf), labels

    def _drop_repeated(self, found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Leave out expansions that are texts of the beam already, and of equal ones all but the best."""
        if self.shape[1] == 1:
            return found
        is_token = labels != self.blank_id
        texts = self.texts[:, :, None]
        texts = torch.where(is_token, texts * HASH_FACTOR + labels + 1, texts).flatten(1)  # (batch, expansions)
        is_same = texts[:, :, None] == texts[:, None]
        is_held = (texts[:, :, None] == self.texts[:, None]) & (self.scores > -torch.inf)[:, None]
        held = found.flatten(1).masked_fill(is_held.any(dim=2) & is_token.flatten(1), -torch.inf)
        best, places = torch.where(is_same, held[:, None], -torch.inf).max(dim=2)
        numbers = torch.arange(texts.shape[1], dtype=torch.int64, device=self.device)
        return torch.where(places == numbers, best, -torch.inf).view_as(found)

    def _note(
        self, parents: torch.Tensor, labels: torch.Tensor, log_probs: torch.Tensor, confidences: torch.Tensor | None
    ) -> None:
        frames = torch.full_like(labels, self.frame)
        self.history.add(parents, labels, frames, log_probs, None, confidences)
