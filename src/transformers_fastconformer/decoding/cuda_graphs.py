"""
Greedy decoding of transducers for CUDA: label looping with masks, captured in graphs.

A step launches a few dozen tiny kernels, and launching them costs more than running them. So a fixed number of rounds
is captured once for a batch and a length rounded up, and replayed; clips that have ended are masked. The host asks
only after each replay whether to go on, and has launched the next one by then.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch

from ..kernels.graph_cache import Capturable, GraphCache
from .hypotheses import Hypotheses, TokenTable
from .state import TransducerState
from .token_scorer import TokenScorer
from .transducer_greedy import JointFunction, PredictFunction
from .transducer_label_looping import ScoreFunction

ROUNDS_PER_REPLAY = 8
MIN_FRAMES = 128


def round_up_sizes(batch_size: int, num_frames: int) -> tuple[int, int]:
    """The next powers of two, so that few loops serve all sizes."""
    return 1 << max(batch_size - 1, 0).bit_length(), max(MIN_FRAMES, 1 << max(num_frames - 1, 0).bit_length())


class MaskedLoop(Capturable):
    """
    Static buffers, and rounds of label looping over them without a branch on values.

    Args:
        batch_size: Clips of the buffers.
        num_frames: Frames of the buffers.
        template: A frame, (joint_hidden_size,), for its size, dtype and device.
        predict: As in `transducer_greedy_decode`.
        joint: As in `transducer_greedy_decode`.
        blank_id: As in `transducer_greedy_decode`.
        durations: As in `transducer_greedy_decode`.
        max_symbols_per_step: As in `transducer_greedy_decode`.
        score: As in `transducer_masked_decode`.
        start_state: State of the prediction network at a start, for its shapes, with any batch.
        looks_per_round: Frames that a clip may look at for its next token before the prediction network runs.
        strategy: As in `transducer_greedy_decode`.
        scorer: As in `transducer_greedy_decode`; its automata stay the same as long as the loop lives.
    """

    def __init__(
        self,
        batch_size: int,
        num_frames: int,
        template: torch.Tensor,
        predict: PredictFunction,
        joint: JointFunction,
        blank_id: int,
        durations: list[int] | None,
        max_symbols_per_step: int | None,
        score: ScoreFunction | None,
        start_state: tuple[torch.Tensor, ...],
        looks_per_round: int,
        strategy: str,
        scorer: TokenScorer | None = None,
    ) -> None:
        device = self.device = template.device
        self.predict, self.joint, self.blank_id, self.score = predict, joint, blank_id, score
        self.durations = None if durations is None else torch.tensor(durations, dtype=torch.int64, device=device)
        self.max_symbols, self.looks_per_round = max_symbols_per_step, looks_per_round
        self.scorer = scorer
        self.leaves_full_frames_late = strategy == "greedy" and durations is not None
        self.batch_size, self.num_frames = batch_size, num_frames

        def integers(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.int64, device=device)

        self.frames = template.new_zeros(batch_size * num_frames, template.shape[0])
        self.first_rows = torch.arange(batch_size, device=device) * num_frames
        self.lengths, self.time, self.symbols = integers(batch_size), integers(batch_size), integers(batch_size)
        self.prediction = template.new_zeros(batch_size, template.shape[0])
        self.predictor_state = tuple(
            part.new_zeros(part.shape[0], batch_size, *part.shape[2:]) for part in start_state
        )
        self.scorer_states = integers(batch_size, 0 if scorer is None else scorer.num_kinds)
        # Tokens that each round of a replay emitted, (rounds, batch); the blank stands for no token.
        self.tokens = integers(ROUNDS_PER_REPLAY, batch_size)
        self.emitted_at, self.emitted_durations = torch.zeros_like(self.tokens), torch.zeros_like(self.tokens)
        self.log_probs = torch.zeros(ROUNDS_PER_REPLAY, batch_size, dtype=torch.float32, device=device)
        self.scores = torch.zeros_like(self.log_probs)
        self.is_running = torch.zeros((), dtype=torch.bool, device=device)

    def load(
        self,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        time: torch.Tensor,
        prediction: torch.Tensor,
        predictor_state: tuple[torch.Tensor, ...],
        scorer_states: torch.Tensor | None = None,
    ) -> None:
        """Put a batch into the buffers; clips that only fill them up have no frames."""
        count, num_frames = frames.shape[:2]
        self.frames.view(self.batch_size, self.num_frames, self.frames.shape[1])[:count, :num_frames] = frames
        for buffer, values in ((self.lengths, lengths), (self.time, time), (self.prediction, prediction)):
            buffer.zero_()
            buffer[:count] = values
        self.symbols.zero_()
        for part, values in zip(self.predictor_state, predictor_state, strict=True):
            part[:, :count] = values
        if scorer_states is not None:
            self.scorer_states[:count] = scorer_states

    def run(self) -> None:
        """Find every clip's next token, `ROUNDS_PER_REPLAY` times."""
        for number in range(ROUNDS_PER_REPLAY):
            self._run_round(number)
        self.is_running.copy_((self.time < self.lengths).any())

    def _run_round(self, number: int) -> None:
        tokens = self.tokens[number].fill_(self.blank_id)
        searching = self.time < self.lengths
        # A clip's states stay what they are until it finds a token.
        added = None if self.scorer is None else self.scorer.scores(self.scorer_states)  # (batch, tokens)
        for _ in range(self.looks_per_round):
            rows = self.first_rows + self.time.clamp(max=self.num_frames - 1)
            logits = self.joint(self.frames.index_select(0, rows), self.prediction)
            token_logits = logits[:, : self.blank_id + 1]
            best = token_logits.argmax(dim=-1)
            if added is not None:
                fused = (token_logits[:, : self.blank_id].float() + added).argmax(dim=-1)
                best = torch.where(best == self.blank_id, best, fused)
            is_token = searching & (best != self.blank_id)
            if self.durations is None:
                lasting = (best == self.blank_id).to(torch.int64)
            else:
                lasting = self.durations[logits[:, self.blank_id + 1 :].argmax(dim=-1)]
            scores = None if self.score is None else self.score(logits)
            token_logits = token_logits.float()
            log_probs = token_logits.gather(1, best[:, None])[:, 0] - token_logits.logsumexp(dim=-1)
            for buffer, values in (
                (tokens, best),
                (self.emitted_at[number], self.time),
                (self.emitted_durations[number], lasting),
                (self.log_probs[number], log_probs),
                *([] if scores is None else [(self.scores[number], scores)]),
            ):
                buffer.copy_(torch.where(is_token, values, buffer))
            jump = torch.where(best == self.blank_id, lasting.clamp(min=1), lasting)
            if self.leaves_full_frames_late and self.max_symbols is not None:
                jump = jump + ((lasting > 0) & (self.symbols + 1 >= self.max_symbols))
            self.symbols += is_token
            if self.max_symbols is not None:
                is_stuck = is_token & (jump == 0) & (self.symbols >= self.max_symbols)
                jump = torch.where(is_stuck, 1, jump)
            jump = jump * searching
            self.time += jump
            self.symbols *= jump == 0
            searching = searching & ~is_token & (self.time < self.lengths)
        emitted = tokens != self.blank_id
        if self.scorer is not None:
            # The blank is not a token of the scores; its clips keep their states.
            after = self.scorer.step(self.scorer_states, torch.where(emitted, tokens, 0))
            self.scorer_states.copy_(torch.where(emitted[:, None], after, self.scorer_states))
        output, state = self.predict(tokens, self.predictor_state)
        self.prediction.copy_(torch.where(emitted[:, None], output, self.prediction))
        for part, new_part in zip(self.predictor_state, state, strict=True):
            mask = emitted.reshape(1, -1, *[1] * (part.ndim - 2))
            part.copy_(torch.where(mask, new_part, part))

    @property
    def emitted(self) -> tuple[torch.Tensor, ...]:
        """Buffers with the emissions of the last replay, (rounds, batch) each."""
        buffers = (self.tokens, self.emitted_at, self.emitted_durations, self.log_probs)
        return buffers if self.score is None else (*buffers, self.scores)


def transducer_masked_decode(
    encoder_frames: torch.Tensor,
    encoder_lengths: torch.Tensor,
    predict: PredictFunction,
    joint: JointFunction,
    blank_id: int,
    padding_id: int,
    durations: list[int] | None = None,
    max_symbols_per_step: int | None = 10,
    state: TransducerState | None = None,
    looks_per_round: int | None = None,
    score: ScoreFunction | None = None,
    graphs: GraphCache[MaskedLoop] | None = None,
    strategy: str = "greedy_batch",
    scorer: TokenScorer | None = None,
) -> tuple[Hypotheses, TransducerState]:
    """
    Decode like `transducer_greedy_decode`, without waiting for the device in each step.

    Args:
        encoder_frames: As in `transducer_greedy_decode`.
        encoder_lengths: As in `transducer_greedy_decode`.
        predict: As in `transducer_greedy_decode`; it must not wait for the device either.
        joint: As in `transducer_greedy_decode`; it must not wait for the device either.
        blank_id: As in `transducer_greedy_decode`.
        padding_id: As in `transducer_greedy_decode`.
        durations: As in `transducer_greedy_decode`.
        max_symbols_per_step: As in `transducer_greedy_decode`.
        state: As in `transducer_greedy_decode`.
        looks_per_round: Frames that a clip may look at before the prediction network runs; default 4 for RNN-T, where
            blanks last one frame, and 2 for TDT.
        score: As in `transducer_label_looping_decode`, (n, classes) to (n,). It must not wait for the device. With
            `graphs`, objects that compute the same must be equal, since captured loops are found by them.
        graphs: Captured loops of these networks, on a CUDA device; None runs the same loop without graphs.
        strategy: As in `transducer_greedy_decode`.
        scorer: As in `transducer_greedy_decode`. With automata of their own for the clips, which change from call to
            call, the loop runs without graphs.

    Returns:
        The hypotheses, and the state for the frames that follow. Frame indices count from the start of this call.
    """
    batch_size, num_frames, _ = encoder_frames.shape
    device = encoder_frames.device
    lengths = encoder_lengths.to(device)
    if state is None:
        blanks = torch.full((batch_size,), blank_id, dtype=torch.int64, device=device)
        prediction, predictor_state = predict(blanks, None)
        time = torch.zeros(batch_size, dtype=torch.int64, device=device)
    else:
        prediction, predictor_state, time = state.predictor_output, state.predictor_state, state.frames_ahead
    looks = looks_per_round or (4 if durations is None else 2)
    sizes = round_up_sizes(batch_size, num_frames) if graphs is not None else (batch_size, max(num_frames, 1))

    def build() -> MaskedLoop:
        template = encoder_frames.new_zeros(encoder_frames.shape[2])
        return MaskedLoop(
            *sizes,
            template,
            predict,
            joint,
            blank_id,
            durations,
            max_symbols_per_step,
            score,
            predictor_state,
            looks,
            strategy,
            scorer,
        )

    scorer_states = None
    if scorer is not None:
        graphs = graphs if scorer.is_shared else None
        start = scorer.enter(None if state is None else state.scorer_states, batch_size)
        scorer_states = torch.from_numpy(start).to(device)
    arguments = (encoder_frames, lengths, time, prediction, predictor_state, scorer_states)
    if graphs is None:
        rounds, next_state = _run(build(), *arguments)
    else:
        key: Hashable = (*sizes, encoder_frames.dtype, str(device), looks, max_symbols_per_step, strategy, score)
        # The loop holds the scorer, so that no other automata get these ids while it is kept.
        key = key if scorer is None else (key, scorer.identity)
        with graphs.lock:
            loop = graphs.find(key)
            if loop is None:  # its buffers hold no clips yet, so that capturing changes nothing
                loop = build()
                graphs.capture(key, loop)
            rounds, next_state = _run(loop, *arguments)
    return _collect(rounds, batch_size, blank_id, padding_id, durations is not None, encoder_frames), next_state


Rounds = list[tuple[torch.Tensor, ...]]


def _run(
    loop: MaskedLoop,
    frames: torch.Tensor,
    lengths: torch.Tensor,
    time: torch.Tensor,
    prediction: torch.Tensor,
    predictor_state: tuple[torch.Tensor, ...],
    scorer_states: torch.Tensor | None,
) -> tuple[Rounds, TransducerState]:
    count = frames.shape[0]
    loop.load(frames, lengths, time, prediction, predictor_state, scorer_states)
    rounds: Rounds = []
    is_cuda = frames.device.type == "cuda"
    flags: list[tuple[torch.Tensor, torch.cuda.Event | None]] = []
    while True:
        loop.replay()
        rounds.append(tuple(buffer.clone() for buffer in loop.emitted))
        if is_cuda:
            flag = torch.empty((), dtype=torch.bool, device="cpu", pin_memory=True)
            flag.copy_(loop.is_running, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            flags.append((flag, event))
        else:
            flags.append((loop.is_running.clone(), None))
        # Only the flag of the replay before is waited for, so that the device always has a replay to do. A replay too
        # many emits nothing.
        if is_cuda and len(flags) < 2:
            continue
        flag, done = flags.pop(0)
        if done is not None:
            done.synchronize()
        if not bool(flag):
            break
    state = TransducerState(
        predictor_state=tuple(part[:, :count].clone() for part in loop.predictor_state),
        predictor_output=loop.prediction[:count].clone(),
        frames_ahead=loop.time[:count] - lengths,
        scorer_states=None
        if loop.scorer is None
        else loop.scorer.leave(loop.scorer_states[:count].cpu().numpy(), frames.device),
    )
    return rounds, state


def _collect(
    rounds: Rounds,
    batch_size: int,
    blank_id: int,
    padding_id: int,
    has_durations: bool,
    encoder_frames: torch.Tensor,
) -> Hypotheses:
    """Join the emissions of all rounds into the tokens of each clip."""
    columns = [torch.cat(column)[:, :batch_size].t() for column in zip(*rounds, strict=True)]  # (batch, rounds) each
    is_token = columns[0] != blank_id
    table = TokenTable(is_token.nonzero()[:, 0], batch_size)
    tokens, frames, durations, log_probs, *scores = (column[is_token] for column in columns)
    return Hypotheses(
        tokens=table.fill(tokens, padding_id),
        token_lengths=table.token_lengths,
        frame_indices=table.fill(frames),
        log_probs=table.fill(log_probs),
        durations=table.fill(durations) if has_durations else None,
        scores=table.fill(scores[0]) if scores else None,
    )
