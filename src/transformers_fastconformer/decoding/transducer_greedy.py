"""
Greedy decoding of transducers, RNN-T (Graves, 2012) and TDT (Xu et al., 2023).

Knows no models: it takes projected encoder frames and two step functions, so that a scripted stub can test it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .hypotheses import Hypotheses, TokenTable
from .state import TransducerState
from .token_scorer import TokenScorer

PredictFunction = Callable[
    [torch.Tensor, "tuple[torch.Tensor, ...] | None"], "tuple[torch.Tensor, tuple[torch.Tensor, ...]]"
]
JointFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def transducer_greedy_decode(
    encoder_frames: torch.Tensor,
    encoder_lengths: torch.Tensor,
    predict: PredictFunction,
    joint: JointFunction,
    blank_id: int,
    padding_id: int,
    durations: list[int] | None = None,
    max_symbols_per_step: int | None = 10,
    state: TransducerState | None = None,
    strategy: str = "greedy_batch",
    scorer: TokenScorer | None = None,
) -> tuple[Hypotheses, TransducerState]:
    """
    Decode in the readable loop: in each step every clip that has frames left looks at its own current frame.

    A token is kept and fed to the prediction network, and the clip stays on its frame (RNN-T) or goes on by the
    predicted duration (TDT). A blank goes on by one frame, or by its duration, at least one. A clip that has emitted
    `max_symbols_per_step` tokens on one frame and would stay on it goes on by one. These are the rules of NeMo 3.0's
    `greedy_batch` (`GreedyBatchedRNNTLabelLoopingComputer`, `GreedyBatchedTDTLabelLoopingComputer`). Those of `greedy`
    (`GreedyRNNTInfer`, `GreedyTDTInfer`) are the same for RNN-T. For TDT they count a blank like a token, and a clip
    that has so many on one frame goes on by its last duration, if that is above 0, and one frame more.

    Args:
        encoder_frames: (batch, frames, joint_hidden_size), encoder output projected for the joint network.
        encoder_lengths: (batch,), frames of each clip that count; 0 is allowed.
        predict: Step of the prediction network: tokens (n,) and a state (None at the start) to its output projected
            for the joint network, (n, joint_hidden_size), and the next state, tensors with the batch in dimension 1.
            Called with `blank_id` at the start, as NeMo does.
        joint: (n, joint_hidden_size) twice, frame and prediction, to logits (n, tokens + blank + durations).
        blank_id: Class of the blank; tokens come before it, durations after it.
        padding_id: Fills `tokens` after the last one.
        durations: Frames that each of TDT's duration classes stands for; None for RNN-T.
        max_symbols_per_step: Largest number of tokens on one frame; None: no limit.
        state: State returned for the frames before these; None at the start of a clip.
        strategy: `"greedy_batch"` or `"greedy"`.
        scorer: Scores of phrases or a language model. As in NeMo 3.0 the model alone decides between blank and token;
            where it is a token, the scores decide which. Durations and log-probabilities are the model's own.

    Returns:
        The hypotheses, and the state for the frames that follow. Frame indices count from the start of this call.
    """
    batch_size, device = encoder_frames.shape[0], encoder_frames.device
    encoder_lengths = encoder_lengths.to(device)
    if state is None:
        blanks = torch.full((batch_size,), blank_id, dtype=torch.int64, device=device)
        predictor_output, predictor_state = predict(blanks, None)
        time = torch.zeros(batch_size, dtype=torch.int64, device=device)
    else:
        predictor_output, predictor_state = state.predictor_output.clone(), state.predictor_state
        time = state.frames_ahead.clone()
    symbols_on_frame = torch.zeros_like(time)  # a call leaves every frame that it decodes, so each call starts at 0
    scorer_states = None if scorer is None else torch.from_numpy(_start(scorer, state, batch_size)).to(device)
    duration_values = None if durations is None else torch.tensor(durations, dtype=torch.int64, device=device)

    steps: list[tuple[torch.Tensor, ...]] = []
    while True:
        clips = (time < encoder_lengths).nonzero()[:, 0]  # clips with frames left
        if clips.numel() == 0:
            break
        logits = joint(encoder_frames[clips, time[clips]], predictor_output[clips])  # (clips, classes)
        token_logits = logits[:, : blank_id + 1]
        best = token_logits.argmax(dim=-1)
        is_token = best != blank_id
        if scorer is not None and scorer_states is not None:
            fused = token_logits[:, :blank_id].float() + scorer.scores(scorer_states[clips])
            best = torch.where(is_token, fused.argmax(dim=-1), best)
        if duration_values is None:
            jump = (~is_token).to(torch.int64)
        else:
            jump = duration_values[logits[:, blank_id + 1 :].argmax(dim=-1)]
            predicted_duration = jump
            jump = torch.where(is_token, jump, jump.clamp(min=1))
            if strategy == "greedy" and max_symbols_per_step is not None:
                is_full = symbols_on_frame[clips] + 1 >= max_symbols_per_step  # with this token or blank
                jump = jump + (is_full & (predicted_duration > 0))

        emitting = clips[is_token]
        if emitting.numel() > 0:
            tokens = best[is_token]
            log_probs = token_logits[is_token].float().log_softmax(dim=-1)
            token_log_probs = log_probs.gather(1, tokens[:, None])[:, 0]
            token_durations = tokens if duration_values is None else predicted_duration[is_token]
            if scorer is not None and scorer_states is not None:
                scorer_states[emitting] = scorer.step(scorer_states[emitting], tokens)
            steps.append((emitting, tokens, time[emitting], token_durations, token_log_probs))
            output, new_state = predict(tokens, tuple(part[:, emitting] for part in predictor_state))
            predictor_output = predictor_output.index_copy(0, emitting, output)
            predictor_state = tuple(
                part.index_copy(1, emitting, new_part)
                for part, new_part in zip(predictor_state, new_state, strict=True)
            )

        symbols_on_frame[clips] += is_token
        if max_symbols_per_step is not None:
            is_stuck = is_token & (jump == 0) & (symbols_on_frame[clips] >= max_symbols_per_step)
            jump = torch.where(is_stuck, 1, jump)
        time[clips] += jump
        symbols_on_frame[clips] = torch.where(jump > 0, 0, symbols_on_frame[clips])

    hypotheses = _collect(steps, batch_size, padding_id, duration_values is not None, encoder_frames)
    next_state = TransducerState(
        predictor_state=predictor_state,
        predictor_output=predictor_output,
        frames_ahead=time - encoder_lengths,
        scorer_states=None
        if scorer is None or scorer_states is None
        else scorer.leave(scorer_states.cpu().numpy(), device),
    )
    return hypotheses, next_state


def _start(scorer: TokenScorer, state: TransducerState | None, batch_size: int) -> np.ndarray:
    return scorer.enter(None if state is None else state.scorer_states, batch_size)


def _collect(
    steps: list[tuple[torch.Tensor, ...]],
    batch_size: int,
    padding_id: int,
    has_durations: bool,
    encoder_frames: torch.Tensor,
) -> Hypotheses:
    """Sort the emissions of all steps by clip; a step has clips, tokens, frames, durations and log-probabilities."""
    device = encoder_frames.device
    empty = torch.zeros(0, dtype=torch.int64, device=device)
    columns = list(zip(*steps, strict=True)) or [(empty,)] * 4 + [
        (torch.zeros(0, dtype=torch.float32, device=device),)
    ]
    clips, tokens, frames, durations, log_probs = (torch.cat(column) for column in columns)
    table = TokenTable(clips, batch_size)
    return Hypotheses(
        tokens=table.fill(tokens, padding_id),
        token_lengths=table.token_lengths,
        frame_indices=table.fill(frames),
        log_probs=table.fill(log_probs),
        durations=table.fill(durations) if has_durations else None,
    )
