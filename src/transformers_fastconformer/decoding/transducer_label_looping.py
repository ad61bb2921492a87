"""
Fast greedy decoding of transducers: label looping (Bataev et al., 2024), for one clip and for a batch.

The same rules and the same results as the readable loop in `transducer_greedy.py`, which is the reference. In a round
every clip looks for its next token on its own, then the prediction network runs once for the clips that found one.
While a clip sees blanks its prediction stays the same, so the joint network may look at several of the frames that
follow in one matrix product; which of them count is settled afterwards by index arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..cache_fastconformer import TransducerState
from .transducer_greedy import JointFunction, PredictFunction, TransducerHypotheses

# Rows of logits that wait for their softmax, so that one call serves many tokens.
ROWS_PER_SCORING = 64
# Rows up to which the joint network's weights cost more to read than to use. With more clips nothing is looked ahead.
ROWS_PER_LOOK = 16

ScoreFunction = Callable[[torch.Tensor], torch.Tensor]


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
) -> tuple[TransducerHypotheses, TransducerState]:
    """
    As `transducer_greedy_decode`, in as few and as large network calls as the rules allow.

    The bookkeeping is done in integers on the host, so on a CUDA device use `cuda_graphs` instead.

    Args:
        encoder_frames, encoder_lengths, predict, joint, blank_id, padding_id, durations, max_symbols_per_step, state:
            As in `transducer_greedy_decode`; `joint` also takes several frames with one prediction, (n, size) and
            (1, size).
        frames_per_look: Frames of a clip that the joint network is given at a time, in anticipation of blanks. Pays
            where blanks are many (RNN-T) and few clips are decoded.
        score: (n, classes) logits of emitted tokens to (n, scores), such as confidences; kept beside the tokens.

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
    walk = _Walk(
        frames=encoder_frames,
        predict=predict,
        joint=joint,
        blank_id=blank_id,
        durations=None if durations is None else np.asarray(durations, dtype=np.int64),
        max_symbols=max_symbols_per_step,
        frames_per_look=frames_per_look,
        emissions=_Emissions(blank_id, score),
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
    )
    return walk.emissions.collect(batch_size, padding_id, durations is not None, device), next_state


class _Walk:
    """The two loops over what stays the same during a call."""

    def __init__(
        self,
        frames: torch.Tensor,
        predict: PredictFunction,
        joint: JointFunction,
        blank_id: int,
        durations: np.ndarray | None,
        max_symbols: int | None,
        frames_per_look: int,
        emissions: _Emissions,
    ) -> None:
        self.frames = frames  # (batch, frames, joint_hidden_size)
        self.predict = predict
        self.joint = joint
        self.blank_id = blank_id
        self.durations = durations
        self.max_symbols = max_symbols
        self.frames_per_look = frames_per_look
        self.emissions = emissions

    def best_of(self, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Best token or blank of each row and the frames it lasts by itself, both (n,)."""
        if logits.dtype != torch.float32:
            logits = logits.float()
        values = logits.numpy() if logits.device.type == "cpu" else logits.cpu().numpy()
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
                if token != blank_id:
                    row = time - first
                    emissions.add_one(token, time, jump, logits[row : row + 1])
                    prediction, predictor_state = predict(torch.tensor([token]).to(frames.device), predictor_state)
                    symbols += 1
                    if jump == 0 and symbols >= max_symbols:
                        jump = 1
                    if jump > 0:
                        time, symbols = time + jump, 0
                    break
                time, symbols = time + max(jump, 1), 0
        return prediction, predictor_state, np.array([time])

    def batch(
        self,
        lengths: np.ndarray,
        start: np.ndarray,
        prediction: torch.Tensor,
        predictor_state: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], np.ndarray]:
        batch_size, num_frames, _ = self.frames.shape
        flat_frames = self.frames.reshape(batch_size * num_frames, self.frames.shape[2])
        device = self.frames.device
        time, symbols = start.copy(), np.zeros(batch_size, dtype=np.int64)
        active = np.flatnonzero(time < lengths)
        while len(active):
            searching = active
            found_clips, found_tokens = [], []
            while len(searching):
                # Rows of logits: `ahead` frames of each searching clip, the last frame repeated at its end.
                ahead = max(1, min(self.frames_per_look, ROWS_PER_LOOK // len(searching)))
                steps = np.minimum(time[searching, None] + np.arange(ahead), lengths[searching, None] - 1)
                rows = torch.from_numpy((searching[:, None] * num_frames + steps).reshape(-1)).to(device)
                clips = torch.from_numpy(np.repeat(searching, ahead)).to(device)
                logits = self.joint(flat_frames.index_select(0, rows), prediction.index_select(0, clips))
                best, jumps = self.best_of(logits)

                base = time[searching].copy()
                row = np.arange(len(searching)) * ahead
                is_open = np.ones(len(searching), dtype=bool)  # neither found a token nor left the rows
                while is_open.any():
                    (which,) = np.nonzero(is_open)
                    here = row[which] + time[searching[which]] - base[which]
                    tokens, jump, clip = best[here], jumps[here], searching[which]
                    is_token = tokens != self.blank_id
                    if is_token.any():
                        self.emissions.add(
                            clip[is_token],
                            tokens[is_token],
                            time[clip[is_token]],
                            jump[is_token],
                            logits,
                            here[is_token],
                        )
                        found_clips.append(clip[is_token])
                        found_tokens.append(tokens[is_token])
                    symbols[clip] += is_token
                    jump = np.where(is_token, jump, np.maximum(jump, 1))
                    if self.max_symbols is not None:
                        jump = np.where(is_token & (jump == 0) & (symbols[clip] >= self.max_symbols), 1, jump)
                    symbols[clip[jump > 0]] = 0
                    time[clip] += jump
                    within = (time[clip] < base[which] + ahead) & (time[clip] < lengths[clip])
                    is_open[which] = ~is_token & within
                    if is_token.any():
                        row[which[is_token]] = -1
                searching = searching[(row >= 0) & (time[searching] < lengths[searching])]
            if found_clips:
                emitting = np.concatenate(found_clips)
                tokens = torch.from_numpy(np.concatenate(found_tokens)).to(device)
                prediction, predictor_state = self._advance(emitting, tokens, prediction, predictor_state)
            active = active[time[active] < lengths[active]]
        return prediction, predictor_state, time

    def _advance(
        self,
        emitting: np.ndarray,
        tokens: torch.Tensor,
        prediction: torch.Tensor,
        predictor_state: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The prediction network for the clips that emitted; the others keep what they have."""
        clips = torch.from_numpy(emitting).to(self.frames.device)
        output, new_state = self.predict(tokens, tuple(part.index_select(1, clips) for part in predictor_state))
        prediction = prediction.index_copy(0, clips, output)
        predictor_state = tuple(
            part.index_copy(1, clips, new_part) for part, new_part in zip(predictor_state, new_state, strict=True)
        )
        return prediction, predictor_state


class _Emissions:
    """What was emitted, in the order of emission; scores are worked out for many rows at once."""

    def __init__(self, blank_id: int, score: ScoreFunction | None) -> None:
        self.blank_id = blank_id
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
        self.frames.append(frames.copy())
        self.durations.append(durations)
        self._wait(tokens, logits[torch.from_numpy(rows).to(logits.device)])

    def _wait(self, tokens: np.ndarray, logits: torch.Tensor) -> None:
        self.waiting.append(logits)
        self.waiting_tokens.append(tokens)
        self.num_waiting += len(tokens)
        if self.num_waiting >= ROWS_PER_SCORING:
            self._score()

    def _score(self) -> None:
        if not self.waiting:
            return
        logits = torch.cat(self.waiting).float()
        tokens = torch.from_numpy(np.concatenate(self.waiting_tokens)).to(logits.device)
        token_logits = logits[:, : self.blank_id + 1]
        chosen = token_logits.gather(1, tokens[:, None])[:, 0]
        self.log_probs.append(chosen - token_logits.logsumexp(dim=-1))
        if self.score is not None:
            self.scores.append(self.score(logits))
        self.waiting, self.waiting_tokens, self.num_waiting = [], [], 0

    def collect(
        self, batch_size: int, padding_id: int, has_durations: bool, device: torch.device
    ) -> TransducerHypotheses:
        """Sort what was emitted by clip."""
        self._score()
        empty = np.zeros(0, dtype=np.int64)
        clips, tokens, frames, durations = (
            np.concatenate(column) if column else empty
            for column in (self.clips, self.tokens, self.frames, self.durations)
        )
        order = np.argsort(clips, kind="stable")
        token_lengths = np.bincount(clips, minlength=batch_size)
        sorted_clips = clips[order]
        rank = np.arange(len(clips)) - (token_lengths.cumsum() - token_lengths)[sorted_clips]
        shape = (batch_size, int(token_lengths.max()) if batch_size else 0)

        def table(values: np.ndarray, fill: int) -> torch.Tensor:
            filled = np.full(shape, fill, dtype=np.int64)
            filled[sorted_clips, rank] = values[order]
            return torch.from_numpy(filled).to(device)

        where = (torch.from_numpy(sorted_clips).to(device), torch.from_numpy(rank).to(device))
        torch_order = torch.from_numpy(order).to(device)
        log_probs = torch.zeros(shape, device=device)
        scores = None
        if self.log_probs:
            log_probs[where] = torch.cat(self.log_probs)[torch_order]
            if self.scores:
                values = torch.cat(self.scores)
                scores = torch.zeros(*shape, *values.shape[1:], device=device)
                scores[where] = values[torch_order]
        return TransducerHypotheses(
            tokens=table(tokens, padding_id),
            token_lengths=torch.from_numpy(token_lengths).to(device),
            frame_indices=table(frames, 0),
            durations=table(durations, 0) if has_durations else None,
            log_probs=log_probs,
            scores=scores,
        )
