"""
Fast greedy decoding of transducers: label looping (Bataev et al., 2024), for one clip and for a batch.

The rules and results are those of the readable loop in `transducer_greedy.py`, which is the reference. In a round
every clip looks for its next token on its own, then the prediction network runs once for the clips that found one. A
few clips that see many blanks do not hold up the others: they go on looking in the next round.
While a clip sees blanks its prediction stays the same, so the joint network may look at several of the frames that
follow in one matrix product; index arithmetic then finds those that count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .hypotheses import Hypotheses, TokenTable
from .state import TransducerState
from .token_scorer import TokenScorer
from .transducer_greedy import JointFunction, PredictFunction

# Rows of logits that wait for their softmax, so that one call serves many tokens.
ROWS_PER_SCORING = 64
# Rows up to which the joint network's weights cost more to read than to use. With more clips there is no look ahead.
ROWS_PER_LOOK = 16
# Share of the clips that may still look for a token when the prediction network runs for the others. Waiting for them
# costs looks at few rows, not waiting costs more calls of the prediction network with fewer rows.
SHARE_LEFT_LOOKING = 0.3
# From this number of clips frames of TDT are projected only when looked at: with fewer, reading weights costs more.
CLIPS_TO_PROJECT_LATE = 16

FIRST_CLIP = np.zeros(1, dtype=np.int64)

ScoreFunction = Callable[[torch.Tensor], torch.Tensor]
ProjectFunction = Callable[[torch.Tensor], torch.Tensor]


def transducer_label_looping_decode(
    encoder_frames: torch.Tensor,
    encoder_lengths: torch.Tensor,
    predict: PredictFunction,
    joint: JointFunction,
    blank_id: int,
    padding_id: int,
    durations: list[int] | None = None,
    max_symbols_per_step: int | None = 10,
    state: TransducerState | None = None,
    frames_per_look: int = 1,
    score: ScoreFunction | None = None,
    project: ProjectFunction | None = None,
    strategy: str = "greedy_batch",
    scorer: TokenScorer | None = None,
) -> tuple[Hypotheses, TransducerState]:
    """
    Decode like `transducer_greedy_decode`, in as few and as large network calls as the rules allow.

    The bookkeeping is done in integers on the host, so on a CUDA device use `cuda_graphs` instead.

    Args:
        encoder_frames: As in `transducer_greedy_decode`, or not projected yet, see `project`.
        encoder_lengths: As in `transducer_greedy_decode`.
        predict: As in `transducer_greedy_decode`.
        joint: As in `transducer_greedy_decode`; it also takes several frames with one prediction, (n, size) and
            (1, size).
        blank_id: As in `transducer_greedy_decode`.
        padding_id: As in `transducer_greedy_decode`.
        durations: As in `transducer_greedy_decode`.
        max_symbols_per_step: As in `transducer_greedy_decode`.
        state: As in `transducer_greedy_decode`.
        frames_per_look: Frames of a clip that the joint network is given at a time, in case the first ones are blanks.
            More than 1 is faster where blanks are many (RNN-T) and few clips are decoded.
        score: (n, classes) logits of emitted tokens to (n, scores), such as confidences; kept next to the tokens.
        project: The joint network's projection of frames, (n, size) to (n, joint_hidden_size), where `encoder_frames`
            are not projected yet. TDT jumps over most frames: with many clips only those looked at are projected.
        strategy: As in `transducer_greedy_decode`.
        scorer: As in `transducer_greedy_decode`.

    Returns:
        The hypotheses, and the state for the frames that follow. Frame indices count from the start of this call.
    """
    batch_size, device = encoder_frames.shape[0], encoder_frames.device
    lengths = encoder_lengths.cpu().numpy().astype(np.int64)
    if batch_size and lengths.max() > encoder_frames.shape[1]:
        raise ValueError(
            f"encoder_lengths={lengths.tolist()} is not supported; expected at most the {encoder_frames.shape[1]} "
            "frames of encoder_frames."
        )
    with torch.inference_mode():
        if project is not None and (durations is None or batch_size < CLIPS_TO_PROJECT_LATE):
            encoder_frames = project(encoder_frames.flatten(0, 1)).unflatten(0, encoder_frames.shape[:2])
            project = None
    walk = _Walk(
        frames=encoder_frames,
        project=project,
        predict=predict,
        joint=joint,
        blank_id=blank_id,
        durations=None if durations is None else np.asarray(durations, dtype=np.int64),
        max_symbols=max_symbols_per_step,
        leaves_full_frames_late=strategy == "greedy" and durations is not None,
        frames_per_look=frames_per_look,
        emissions=_Emissions(blank_id, score, scorer is None),
        scorer=scorer,
        scorer_states=None
        if scorer is None
        else scorer.enter(None if state is None else state.scorer_states, batch_size),
    )
    decode = walk.one_clip if batch_size == 1 else walk.batch
    with torch.inference_mode():
        if state is None:
            blanks = torch.full((batch_size,), blank_id, dtype=torch.int64, device=device)
            predictor_output, predictor_state = predict(blanks, None)
            start = np.zeros(batch_size, dtype=np.int64)
        else:
            predictor_output, predictor_state = state.predictor_output, state.predictor_state
            start = state.frames_ahead.cpu().numpy().astype(np.int64)
        predictor_output, predictor_state, time = decode(lengths, start, predictor_output, predictor_state)
    next_state = TransducerState(
        predictor_state=tuple(part.clone() for part in predictor_state),  # ordinary tensors again
        predictor_output=predictor_output.clone(),
        frames_ahead=torch.from_numpy(time - lengths).to(device),
        scorer_states=None
        if scorer is None or walk.scorer_states is None
        else scorer.leave(walk.scorer_states, device),
    )
    return walk.emissions.collect(batch_size, padding_id, durations is not None, device), next_state


class _Walk:
    """The two loops, with all that stays the same during a call."""

    def __init__(
        self,
        frames: torch.Tensor,
        project: ProjectFunction | None,
        predict: PredictFunction,
        joint: JointFunction,
        blank_id: int,
        durations: np.ndarray | None,
        max_symbols: int | None,
        leaves_full_frames_late: bool,
        frames_per_look: int,
        emissions: _Emissions,
        scorer: TokenScorer | None = None,
        scorer_states: np.ndarray | None = None,
    ) -> None:
        self.frames = frames.contiguous()  # (batch, frames, joint_hidden_size), with `project` (batch, frames, size)
        self.project = project
        self.predict = predict
        self.joint = joint
        self.blank_id = blank_id
        self.durations = durations
        self.max_symbols = max_symbols
        self.leaves_full_frames_late = leaves_full_frames_late and max_symbols is not None
        self.frames_per_look = frames_per_look
        self.emissions = emissions
        self.scorer = scorer
        self.scorer_states = scorer_states  # (clips, kinds)
        self.values = np.zeros((0, 0), dtype=np.float32)  # the last logits

    def choose(self, clips: np.ndarray, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """
        Tokens that clips emit, by the scores of phrases and language model, and the clips' states after them.

        Args:
            clips: (n,), their numbers.
            tokens: (n,), the model's own.
            rows: (n,), rows of the last logits that these tokens were read from.
        """
        if self.scorer is None or self.scorer_states is None:
            return tokens
        chosen = self.scorer.choose(self.values[rows, : self.blank_id], self.scorer_states[clips])
        self.scorer_states[clips] = self.scorer.step_rows(self.scorer_states[clips], chosen)
        return chosen

    def best_of(self, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Best token or blank of each row and its duration in frames, both (n,)."""
        if logits.dtype != torch.float32:
            logits = logits.float()
        values = logits.numpy() if logits.device.type == "cpu" else logits.cpu().numpy()
        self.values = values
        best = values[:, : self.blank_id + 1].argmax(axis=1)
        if self.durations is None:
            return best, (best == self.blank_id).astype(np.int64)
        return best, self.durations[values[:, self.blank_id + 1 :].argmax(axis=1)]

    def one_clip(
        self,
        lengths: np.ndarray,
        start: np.ndarray,
        prediction: torch.Tensor,
        predictor_state: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], np.ndarray]:
        frames, joint, predict, emissions = self.frames[0], self.joint, self.predict, self.emissions
        frames_per_look, blank_id = self.frames_per_look, self.blank_id
        max_symbols = float("inf") if self.max_symbols is None else self.max_symbols
        time, length, symbols = int(start[0]), int(lengths[0]), 0
        while time < length:
            first = time
            logits = joint(frames[first : min(first + frames_per_look, length)], prediction)
            best, jumps = self.best_of(logits)
            end = first + len(best)
            while time < end:
                token, jump = int(best[time - first]), int(jumps[time - first])
                # One frame more with the last token or blank that a frame may have, see `greedy`.
                more = int(self.leaves_full_frames_late and jump > 0 and symbols + 1 >= max_symbols)
                if token != blank_id:
                    row = time - first
                    if self.scorer is not None:
                        best[row : row + 1] = self.choose(FIRST_CLIP, best[row : row + 1], np.array([row]))
                        token = int(best[row])
                    emissions.add_one(token, time, jump, logits[row : row + 1])
                    prediction, predictor_state = predict(
                        torch.from_numpy(best[row : row + 1]).to(frames.device), predictor_state
                    )
                    symbols += 1
                    if jump == 0 and symbols >= max_symbols:
                        jump = 1
                    if jump > 0:
                        time, symbols = time + jump + more, 0
                    break
                time, symbols = time + max(jump, 1) + more, 0
        return prediction, predictor_state, np.array([time])

    def batch(
        self,
        lengths: np.ndarray,
        start: np.ndarray,
        prediction: torch.Tensor,
        predictor_state: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], np.ndarray]:
        device = self.frames.device
        time, symbols = start.copy(), np.zeros_like(start)
        final_prediction, *final_state = (part.clone() for part in (prediction, *predictor_state))
        # The arrays below have a row for each clip that has frames left; `active` are the numbers of these clips.
        active = np.flatnonzero(time < lengths)
        rows = torch.from_numpy(active).to(device)
        prediction = prediction.index_select(0, rows)
        predictor_state = tuple(part.index_select(1, rows) for part in predictor_state)
        while len(active):
            tokens = self._search(active, lengths, time, symbols, prediction)  # (active,), blank where none was found
            found = np.flatnonzero(tokens != self.blank_id)
            if len(found) == len(active):
                prediction, predictor_state = self.predict(torch.from_numpy(tokens).to(device), predictor_state)
            elif len(found):
                self._advance(found, tokens[found], prediction, predictor_state)
            has_frames = time[active] < lengths[active]
            if not has_frames.all():
                ended = torch.from_numpy(np.flatnonzero(~has_frames)).to(device)
                going_on = torch.from_numpy(np.flatnonzero(has_frames)).to(device)
                clips = torch.from_numpy(active[~has_frames]).to(device)
                final_prediction.index_copy_(0, clips, prediction.index_select(0, ended))
                for final_part, part in zip(final_state, predictor_state, strict=True):
                    final_part.index_copy_(1, clips, part.index_select(1, ended))
                prediction = prediction.index_select(0, going_on)
                predictor_state = tuple(part.index_select(1, going_on) for part in predictor_state)
                active = active[has_frames]
        return final_prediction, tuple(final_state), time

    def _search(
        self,
        active: np.ndarray,
        lengths: np.ndarray,
        time: np.ndarray,
        symbols: np.ndarray,
        prediction: torch.Tensor,
    ) -> np.ndarray:
        """
        Find the next token of each active clip; the blank stands for none or for one that is not found yet.

        `time` and `symbols` of all clips are advanced in place, and emissions are noted.
        """
        num_frames, blank_id, device = self.frames.shape[1], self.blank_id, self.frames.device
        flat_frames = self.frames.flatten(0, 1)
        tokens_found = np.full(len(active), blank_id)
        searching = np.arange(len(active))  # rows, not clips
        while len(searching) and (
            len(searching) > SHARE_LEFT_LOOKING * len(active) or (tokens_found == blank_id).all()
        ):
            # Rows of logits: `ahead` frames of each searching clip, the last frame repeated at its end.
            clips = active[searching]
            base = time[clips]
            ahead = max(1, min(self.frames_per_look, ROWS_PER_LOOK // len(searching)))
            if ahead == 1:
                steps, predictions_of = base, searching
            else:
                steps = np.minimum(base[:, None] + np.arange(ahead), lengths[clips, None] - 1)  # (searching, ahead)
                steps, predictions_of = steps.reshape(-1), np.repeat(searching, ahead)
            places = np.repeat(clips * num_frames, ahead) + steps
            frames = flat_frames.index_select(0, torch.from_numpy(places).to(device))
            if self.project is not None:
                frames = self.project(frames)
            predictions = prediction
            if len(predictions_of) != len(active) or ahead > 1:
                predictions = prediction.index_select(0, torch.from_numpy(predictions_of).to(device))
            logits = self.joint(frames, predictions)
            best, jumps = self.best_of(logits)

            is_searching = np.ones(len(searching), dtype=bool)
            which = np.arange(len(searching))  # have neither found a token nor left the rows
            while len(which):
                clip = clips[which]
                now = time[clip]
                here = which * ahead + now - base[which]
                tokens, jump = best[here], jumps[here]
                is_token = tokens != blank_id
                if is_token.any():
                    emitting = which[is_token]
                    if self.scorer is not None:
                        tokens[is_token] = self.choose(clip[is_token], tokens[is_token], here[is_token])
                    self.emissions.add(
                        clip[is_token], tokens[is_token], now[is_token], jump[is_token], logits, here[is_token]
                    )
                    tokens_found[searching[emitting]] = tokens[is_token]
                    is_searching[emitting] = False
                more = 0
                if self.leaves_full_frames_late:
                    more = (jump > 0) & (symbols[clip] + 1 >= self.max_symbols)
                symbols[clip] += is_token
                jump = np.where(is_token, jump, np.maximum(jump, 1)) + more
                if self.max_symbols is not None:
                    jump = np.where(is_token & (jump == 0) & (symbols[clip] >= self.max_symbols), 1, jump)
                symbols[clip[jump > 0]] = 0
                now = now + jump
                time[clip] = now
                which = which[~is_token & (now < base[which] + ahead) & (now < lengths[clip])]
            searching = searching[is_searching & (time[clips] < lengths[clips])]
        return tokens_found

    def _advance(
        self,
        rows_found: np.ndarray,
        tokens: np.ndarray,
        prediction: torch.Tensor,
        predictor_state: tuple[torch.Tensor, ...],
    ) -> None:
        """Run the prediction network for the rows that found a token, in place; the others keep their prediction."""
        rows = torch.from_numpy(rows_found).to(self.frames.device)
        before = tuple(part.index_select(1, rows) for part in predictor_state)
        output, after = self.predict(torch.from_numpy(tokens).to(self.frames.device), before)
        prediction.index_copy_(0, rows, output)
        for part, new_part in zip(predictor_state, after, strict=True):
            part.index_copy_(1, rows, new_part)


class _Emissions:
    """Emitted tokens in the order of emission; scores are computed for many rows at once."""

    def __init__(self, blank_id: int, score: ScoreFunction | None, is_largest: bool = True) -> None:
        self.blank_id = blank_id
        self.is_largest = is_largest  # each token is the best class of its row
        self.score = score
        self.clips: list[np.ndarray] = []
        self.tokens: list[np.ndarray] = []
        self.frames: list[np.ndarray] = []
        self.durations: list[np.ndarray] = []
        self.log_probs: list[torch.Tensor] = []
        self.scores: list[torch.Tensor] = []
        self.waiting: list[torch.Tensor] = []
        self.waiting_tokens: list[np.ndarray] = []
        self.num_waiting = 0

    def add_one(self, token: int, frame: int, duration: int, logits: torch.Tensor) -> None:
        tokens = np.array([token])
        self.clips.append(np.zeros(1, dtype=np.int64))
        self.tokens.append(tokens)
        self.frames.append(np.array([frame]))
        self.durations.append(np.array([duration]))
        self._wait(tokens, logits)

    def add(
        self,
        clips: np.ndarray,
        tokens: np.ndarray,
        frames: np.ndarray,
        durations: np.ndarray,
        logits: torch.Tensor,
        rows: np.ndarray,
    ) -> None:
        self.clips.append(clips)
        self.tokens.append(tokens)
        self.frames.append(frames)
        self.durations.append(durations)
        if len(rows) < len(logits):
            logits = logits.index_select(0, torch.from_numpy(rows).to(logits.device))
        self._wait(tokens, logits)

    def _wait(self, tokens: np.ndarray, logits: torch.Tensor) -> None:
        self.waiting.append(logits)
        self.waiting_tokens.append(tokens)
        self.num_waiting += len(tokens)
        if self.num_waiting >= ROWS_PER_SCORING:
            self._score()

    def _score(self) -> None:
        if not self.waiting:
            return
        logits = (torch.cat(self.waiting) if len(self.waiting) > 1 else self.waiting[0]).float()
        tokens = torch.from_numpy(np.concatenate(self.waiting_tokens)).to(logits.device)
        token_logits = logits[:, : self.blank_id + 1]
        own = token_logits.gather(1, tokens[:, None])
        # Without a scorer the token was chosen for being the largest.
        largest = own if self.is_largest else token_logits.amax(dim=-1, keepdim=True)
        sums = (token_logits - largest).exp_().sum(dim=-1).log_()
        self.log_probs.append(0.0 - sums if self.is_largest else (own - largest)[:, 0] - sums)
        if self.score is not None:
            self.scores.append(self.score(logits))
        self.waiting, self.waiting_tokens, self.num_waiting = [], [], 0

    def collect(self, batch_size: int, padding_id: int, has_durations: bool, device: torch.device) -> Hypotheses:
        """Sort the emissions by clip."""
        self._score()
        empty = np.zeros(0, dtype=np.int64)
        clips, tokens, frames, durations = (
            np.concatenate(column) if column else empty
            for column in (self.clips, self.tokens, self.frames, self.durations)
        )
        table = TokenTable(torch.from_numpy(clips).to(device), batch_size)
        none = torch.zeros(0, dtype=torch.float32, device=device)
        return Hypotheses(
            tokens=table.fill(torch.from_numpy(tokens).to(device), padding_id),
            token_lengths=table.token_lengths,
            frame_indices=table.fill(torch.from_numpy(frames).to(device)),
            log_probs=table.fill(torch.cat(self.log_probs) if self.log_probs else none),
            durations=table.fill(torch.from_numpy(durations).to(device)) if has_durations else None,
            scores=None if self.score is None else table.fill(torch.cat(self.scores) if self.scores else none),
        )
