"""
Beam search for transducers, RNN-T and TDT, in which texts of as many tokens and blanks stand side by side.

Alignment-length synchronous decoding (Saon et al., 2020) by the rules of NeMo 3.0 (`ModifiedALSDBatchedRNNTComputer`,
`ModifiedALSDBatchedTDTComputer`): in a step each text is continued by a token or a blank, the best continuations
of a clip stay, and equal texts at the same frame become one, with the sum of their probabilities. All clips and
texts are advanced at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .beam_history import NO_LABEL, BeamHistory, rank_beams
from .beam_options import BeamOptions
from .beam_scorer import BeamScorer, is_on_host
from .hypotheses import Hypotheses
from .state import TransducerState
from .token_scorer import TokenScorer
from .transducer_greedy import JointFunction, PredictFunction

# Factor of the hash of a text; odd, so that no two tokens lead from one hash to the same.
HASH_FACTOR = 6364136223846793005
# Least probability of all tokens together that is reckoned with when their scores are weighed against the blank.
LEAST_REST = 1e-2


def transducer_beam_decode(
    encoder_frames: torch.Tensor,
    encoder_lengths: torch.Tensor,
    predict: PredictFunction,
    joint: JointFunction,
    blank_id: int,
    padding_id: int,
    beam: BeamOptions,
    durations: list[int] | None = None,
    max_symbols_per_step: int | None = 10,
    state: TransducerState | None = None,
    score: Callable[[torch.Tensor], torch.Tensor] | None = None,
    scorer: TokenScorer | None = None,
) -> tuple[Hypotheses, TransducerState]:
    """
    Find the best texts of each clip.

    Args:
        encoder_frames: (batch, frames, joint_hidden_size), projected for the joint network.
        encoder_lengths: (batch,), frames of each clip that count.
        predict: As in `transducer_greedy_decode`.
        joint: As in `transducer_greedy_decode`.
        blank_id: As in `transducer_greedy_decode`.
        padding_id: As in `transducer_greedy_decode`.
        beam: Options of the search.
        durations: As in `transducer_greedy_decode`.
        max_symbols_per_step: Tokens on a frame after which the blank follows; None: no limit.
        state: State that an earlier call, of greedy decoding or of a search, returned for the frames before these.
        score: As in `transducer_label_looping_decode`.
        scorer: Scores of phrases and language model, which are added to the log-probabilities.

    Returns:
        The `num_best` best texts of each clip, best first, in consecutive rows, and the state after the best one, from
        which the frames that follow are decoded. Frame indices count from the start of this call.
    """
    with torch.inference_mode():
        search = TransducerSearch(
            encoder_frames, encoder_lengths, predict, joint, blank_id, beam, durations, max_symbols_per_step, score
        )
        search.start(state, scorer)
        while search.step():
            pass
    return search.finish(padding_id)  # ordinary tensors again


class TransducerSearch:
    """Texts of all clips. Rows are clips times beams; the tensors of texts are (batch, beams)."""

    def __init__(
        self,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        predict: PredictFunction,
        joint: JointFunction,
        blank_id: int,
        beam: BeamOptions,
        durations: list[int] | None,
        max_symbols: int | None,
        score: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self.predict, self.joint, self.score = predict, joint, score
        self.blank_id, self.beam, self.max_symbols = blank_id, beam, max_symbols
        self.device = frames.device
        batch_size, self.num_frames = frames.shape[:2]
        self.frames = frames.flatten(0, 1)  # (batch * frames, joint_hidden_size)
        self.lengths = lengths.to(self.device)
        self.durations = None if durations is None else torch.tensor(durations, dtype=torch.int64, device=self.device)
        # A CPU computes nothing for texts that have ended or do not exist. Elsewhere finding them would cost more.
        self.is_on_host = is_on_host(self.device)
        num_beams = beam.num_beams
        self.shape = (batch_size, num_beams)
        self.all_rows = torch.arange(batch_size * num_beams, dtype=torch.int64, device=self.device)
        self.first_rows = torch.arange(batch_size, dtype=torch.int64, device=self.device)[:, None] * num_beams
        self.first_frames = self.all_rows // num_beams * self.num_frames
        # Candidates of a text: no more of them can stay.
        num_classes = (blank_id + 1) * (1 if durations is None else len(durations))
        self.num_candidates = min(num_beams, num_classes)
        self.texts = torch.zeros(self.shape, dtype=torch.int64, device=self.device)  # their hashes
        self.token_lengths = torch.zeros_like(self.texts)
        self.symbols = torch.zeros_like(self.texts)  # tokens on the frame
        self.scores = torch.full(self.shape, -torch.inf, dtype=torch.float32, device=self.device)
        self.scores[:, 0] = 0.0
        self.history = BeamHistory(blank_id)
        self.scorer: BeamScorer | None = None

    def start(self, state: TransducerState | None, scorer: TokenScorer | None) -> None:
        """Put one text into the beam of each clip: an empty one, after what a state knows."""
        batch_size, num_beams = self.shape
        if state is None:
            blanks = torch.full((batch_size,), self.blank_id, dtype=torch.int64, device=self.device)
            prediction, predictor_state = self.predict(blanks, None)
            start = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        else:
            prediction, predictor_state = state.predictor_output, state.predictor_state
            start = state.frames_ahead
        clips = self.all_rows // num_beams
        self.prediction = prediction[clips]  # (rows, joint_hidden_size)
        self.predictor_state = tuple(part.index_select(1, clips) for part in predictor_state)
        self.time = start[:, None].repeat(1, num_beams)
        if scorer is not None:
            states = None if state is None else state.scorer_states
            self.scorer = BeamScorer(scorer, states, batch_size, self.beam, self.device)

    def step(self) -> bool:
        """Continue all texts that have frames left. False once no text has."""
        is_active = (self.time < self.lengths[:, None]) & (self.scores > -torch.inf)
        if self.is_on_host:
            rows = is_active.view(-1).nonzero()[:, 0]
            if not len(rows):
                return False
        else:
            rows = self.all_rows
            if not bool(is_active.any()):
                return False
        candidates = self._find_candidates(rows, is_active)
        # (batch, beams * candidates) to (batch, beams)
        scores, chosen = candidates[0].view(self.shape[0], -1).topk(self.shape[1], dim=1)
        parents = chosen // self.num_candidates
        labels, jumps, log_probs = (part.view(self.shape[0], -1).gather(1, chosen) for part in candidates[1:4])
        confidences = None if candidates[4] is None else candidates[4].gather(1, parents)
        frames = self.time.gather(1, parents)
        durations = None if self.durations is None else jumps
        self.history.add(parents, labels, frames, log_probs, durations, confidences)

        is_token = (labels >= 0) & (labels != self.blank_id)
        self.scores = scores
        self.time = frames + jumps
        self.symbols = torch.where(jumps > 0, 0, self.symbols.gather(1, parents) + is_token)
        self.token_lengths = self.token_lengths.gather(1, parents) + is_token
        texts = self.texts.gather(1, parents)
        self.texts = torch.where(is_token, texts * HASH_FACTOR + labels + 1, texts)
        self._merge()
        self.predict_next(parents, labels, is_token)
        return True

    def _find_candidates(
        self, rows: torch.Tensor, is_active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Best continuations of each text.

        Returns:
            Scores of the texts with them, labels, frames to go on by and log-probabilities, all (rows, candidates);
            and (batch, beams), confidences, if asked for. The first candidate of a text that has ended is itself.
        """
        blank_id, count = self.blank_id, self.num_candidates
        # Rows of texts that have ended may be among these; nothing of them is used.
        places = self.first_frames[rows] + self.time.view(-1)[rows].clamp(max=self.num_frames - 1)
        logits = self.joint(self.frames.index_select(0, places), self.prediction.index_select(0, rows))
        plain = logits[:, : blank_id + 1].float().log_softmax(dim=-1)  # (n, tokens and blank)
        fused = plain if self.scorer is None else self.scorer.fuse(plain, rows, blank_id, LEAST_REST)
        is_early = self.scorer is not None and self.beam.pruning_mode == "early"
        found, labels = (plain if is_early else fused).topk(min(count, blank_id + 1), dim=1)
        if is_early:
            found = fused.gather(1, labels)
        forced = (plain if is_early else fused)[:, blank_id]
        if self.durations is None:
            jumps = (labels == blank_id).to(torch.int64)
            forced_jumps = torch.ones_like(rows)
        else:
            in_durations = logits[:, blank_id + 1 :].float().log_softmax(dim=-1)  # (n, durations)
            num_durations = in_durations.shape[1]
            found, pairs = (found[:, :, None] + in_durations[:, None]).flatten(1).topk(count, dim=1)
            labels = labels.gather(1, pairs // num_durations)
            jumps = self.durations[pairs % num_durations]
            jumps = torch.where(labels == blank_id, jumps.clamp(min=1), jumps)
            best, best_places = in_durations.max(dim=1)
            forced = forced + best
            forced_jumps = self.durations[best_places].clamp(min=1)
        log_probs = plain.gather(1, labels)
        before = self.scores.view(-1)[rows]
        found = found + before[:, None]
        if self.max_symbols is not None:
            is_full = (self.symbols.view(-1)[rows] >= self.max_symbols)[:, None]
            is_first = self._is_first(count)
            found = torch.where(is_full, torch.where(is_first, (before + forced)[:, None], -torch.inf), found)
            labels = torch.where(is_full, blank_id, labels)
            jumps = torch.where(is_full, forced_jumps[:, None], jumps)
        confidences = None if self.score is None else self.score(logits)
        if not self.is_on_host:
            is_active = is_active.view(-1, 1)
            kept = torch.where(self._is_first(count), self.scores.view(-1, 1), -torch.inf)
            found = torch.where(is_active, found, kept)
            labels = torch.where(is_active, labels, NO_LABEL)
            jumps = torch.where(is_active, jumps, 0)
            return found, labels, jumps, log_probs, self._as_texts(confidences, rows)
        if len(rows) < len(self.all_rows):
            all_found = self.scores.new_full((len(self.all_rows), count), -torch.inf)
            all_found[:, 0] = self.scores.view(-1)
            all_found[rows] = found
            found = all_found
            labels = labels.new_full((len(self.all_rows), count), NO_LABEL).index_copy_(0, rows, labels)
            jumps = jumps.new_zeros(len(self.all_rows), count).index_copy_(0, rows, jumps)
            log_probs = log_probs.new_zeros(len(self.all_rows), count).index_copy_(0, rows, log_probs)
        return found, labels, jumps, log_probs, self._as_texts(confidences, rows)

    def _is_first(self, count: int) -> torch.Tensor:
        return torch.arange(count, dtype=torch.int64, device=self.device) == 0

    def _as_texts(self, values: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor | None:
        """Values of rows as those of texts, (batch, beams)."""
        if values is None:
            return None
        return values.new_zeros(len(self.all_rows)).index_copy_(0, rows, values).view(self.shape)

    def _merge(self) -> None:
        """Make equal texts at the same frame one, the best of them, with the sum of their probabilities."""
        if self.shape[1] == 1:
            return
        is_same = self.texts[:, :, None] == self.texts[:, None]  # (batch, beams, beams)
        is_same &= self.token_lengths[:, :, None] == self.token_lengths[:, None]
        is_same &= self.time[:, :, None] == self.time[:, None]
        sums = torch.where(is_same, self.scores[:, None], -torch.inf).logsumexp(dim=2)
        # Scores fall from the first to the last.
        is_repeated = is_same.tril(diagonal=-1).any(dim=2)
        self.scores = sums.masked_fill(is_repeated, -torch.inf)

    def predict_next(self, parents: torch.Tensor, labels: torch.Tensor, is_token: torch.Tensor) -> None:
        """Take the predictions of the texts that were continued, and make those after new tokens."""
        parent_rows = (self.first_rows + parents).view(-1)
        self.prediction = self.prediction.index_select(0, parent_rows)
        self.predictor_state = tuple(part.index_select(1, parent_rows) for part in self.predictor_state)
        if self.scorer is not None:
            self.scorer.reorder(parent_rows)
        if self.is_on_host:
            rows = (is_token & (self.scores > -torch.inf)).view(-1).nonzero()[:, 0]
            if not len(rows):
                return
            tokens = labels.view(-1)[rows]
            before = tuple(part.index_select(1, rows) for part in self.predictor_state)
            output, after = self.predict(tokens, before)
            self.prediction.index_copy_(0, rows, output)
            for part, new in zip(self.predictor_state, after, strict=True):
                part.index_copy_(1, rows, new)
            if self.scorer is not None:
                self.scorer.step(rows, tokens)
            return
        is_token = is_token.view(-1)
        tokens = torch.where(is_token, labels.view(-1), 0)
        output, after = self.predict(tokens, self.predictor_state)
        self.prediction = torch.where(is_token[:, None], output, self.prediction)
        self.predictor_state = tuple(
            torch.where(is_token.view(1, -1, *(1,) * (part.ndim - 2)), new, part)
            for part, new in zip(self.predictor_state, after, strict=True)
        )
        if self.scorer is not None:
            self.scorer.step_where(is_token, tokens)

    def finish(self, padding_id: int) -> tuple[Hypotheses, TransducerState]:
        """The best texts, and the state after the best one."""
        beam = self.beam
        chosen, totals = rank_beams(self.scores, self.token_lengths, beam.num_best, beam.normalize_length)
        hypotheses = self.history.collect(
            chosen, totals, padding_id, self.durations is not None, self.score is not None
        )
        best = (self.first_rows + chosen[:, :1])[:, 0]
        state = TransducerState(
            predictor_state=tuple(part.index_select(1, best).clone() for part in self.predictor_state),
            predictor_output=self.prediction.index_select(0, best).clone(),
            frames_ahead=self.time.view(-1)[best] - self.lengths,
            scorer_states=None if self.scorer is None else self.scorer.leave(best),
        )
        return hypotheses, state
