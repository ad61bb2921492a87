"""
Greedy decoding with an attention decoder: a token a step for every clip that has not ended.

Nothing is known of models: a step takes the tokens that are new and a state, and gives the classes of the next token
and the new state. Clips that have ended leave the batch, so that the steps that follow do not pay for them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

import torch

from .hypotheses import Hypotheses, TokenTable
from .token_scorer import TokenScorer


class DecoderState(Protocol):
    """Past of the clips of a batch, as the step function keeps it."""

    def select(self: State, clips: torch.Tensor) -> State:
        """The state of some clips, by their numbers (n,); this one is not used again."""


State = TypeVar("State", bound=DecoderState)
# New tokens (clips, tokens) and the state before them to the scores of the next token, (clips, classes), before the
# softmax, and the state after them.
Step = Callable[[torch.Tensor, State], tuple[torch.Tensor, State]]
# Scores (rows, classes) before the softmax and the tokens that were taken, (rows,), to confidences in these, (rows,).
Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def decode_attention_greedily(
    step: Step[State],
    state: State,
    prompts: torch.Tensor,
    max_new_tokens: torch.Tensor,
    end_ids: Collection[int],
    padding_id: int,
    with_log_probs: bool = False,
    score: Score | None = None,
    scorer: TokenScorer | None = None,
    end_id: int | None = None,
) -> Hypotheses:
    """
    Take the best class of each step until a clip ends.

    Args:
        step: Step function.
        state: State before the prompts.
        prompts: (batch, tokens), of one length.
        max_new_tokens: (batch,), number of tokens after which a clip ends, the one that ends it included.
        end_ids: Tokens that end a clip.
        padding_id: What the tokens are padded with; at the end of a clip it is no token.
        with_log_probs: Compute the log-probability of each token.
        score: Confidence in each token, where it is wanted.
        scorer: Scores of phrases or a language model, which are added to the log-probabilities as in NeMo 3.0
            (`BeamSearchSequenceGeneratorWithFusionModels` with one beam). What is returned is the model's own.
        end_id: Token that ends a text, which has a score of its own there.

    Returns:
        The hypotheses, without prompt and end.
    """
    batch_size, device = prompts.shape[0], prompts.device
    limits = max_new_tokens.tolist()
    clips = [clip for clip in range(batch_size) if limits[clip] > 0]
    emitted: list[tuple[list[int], list[int], torch.Tensor | None, torch.Tensor | None]] = []
    if clips:
        rows = torch.tensor(clips, dtype=torch.int64, device=device)
        if len(clips) < batch_size:
            state = state.select(rows)
        tokens = prompts[rows]
        scorer_states = None if scorer is None else torch.from_numpy(scorer.enter(None, batch_size)).to(device)[rows]
        count = 0
        while True:
            logits, state = step(tokens, state)
            if scorer is None or scorer_states is None:
                best = logits.argmax(dim=-1)  # (clips,)
            else:
                best, scorer_states = _choose(logits, scorer, scorer_states, end_id)
            found = best.tolist()
            count += 1
            log_probs = _log_probs_of(logits, best) if with_log_probs else None
            scores = None if score is None else score(logits, best)
            spoken = [row for row, token in enumerate(found) if token not in end_ids]
            emitted.append(
                (
                    [clips[row] for row in spoken],
                    [found[row] for row in spoken],
                    None if log_probs is None else log_probs[spoken],
                    None if scores is None else scores[spoken],
                )
            )
            going_on = [row for row in spoken if count < limits[clips[row]]]
            if not going_on:
                break
            if len(going_on) < len(clips):
                rows = torch.tensor(going_on, dtype=torch.int64, device=device)
                state, best = state.select(rows), best[rows]
                scorer_states = None if scorer_states is None else scorer_states[rows]
                clips = [clips[row] for row in going_on]
            tokens = best[:, None]
    return _collect(emitted, batch_size, padding_id, device, with_log_probs, score is not None)


def _choose(
    logits: torch.Tensor, scorer: TokenScorer, states: torch.Tensor, end_id: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best class of each row with the scores in its states, and the states after it."""
    scores = scorer.scores(states) if end_id is None else scorer.scores_with_end(states, end_id)
    fused = logits.float().log_softmax(dim=-1)  # (clips, classes)
    num_tokens = scores.shape[1]
    fused[:, :num_tokens] += scores
    best = fused.argmax(dim=-1)
    # A class that is no token, with which a head may be padded, leaves the states as they are.
    is_token = best < num_tokens
    after = scorer.step(states, torch.where(is_token, best, 0))
    return best, torch.where(is_token[:, None], after, states)


def _log_probs_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of tokens (clips,), one of each row of the logits."""
    return logits.float().log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]


def _collect(
    emitted: list[tuple[list[int], list[int], torch.Tensor | None, torch.Tensor | None]],
    batch_size: int,
    padding_id: int,
    device: torch.device,
    with_log_probs: bool,
    with_scores: bool,
) -> Hypotheses:
    """The tokens of all steps in one table."""
    clips = torch.tensor([clip for step in emitted for clip in step[0]], dtype=torch.int64, device=device)
    tokens = torch.tensor([token for step in emitted for token in step[1]], dtype=torch.int64, device=device)
    table = TokenTable(clips, batch_size)
    filled = table.fill(tokens, padding_id)
    log_probs = torch.zeros(filled.shape, dtype=torch.float32, device=device)
    if with_log_probs and emitted:
        log_probs = table.fill(torch.cat([step[2] for step in emitted if step[2] is not None]))
    scores = None
    if with_scores:
        found = [step[3] for step in emitted if step[3] is not None]
        empty = torch.zeros(filled.shape, dtype=torch.float32, device=device)
        scores = table.fill(torch.cat(found)) if found else empty
    hypotheses = Hypotheses(filled, table.token_lengths, torch.zeros_like(filled), log_probs, None, scores)
    return without_trailing_padding(hypotheses, padding_id)


def without_trailing_padding(hypotheses: Hypotheses, padding_id: int) -> Hypotheses:
    """Hypotheses without the padding that a model may have emitted at the end of a clip, as NeMo 3.0 has them."""
    num_columns = hypotheses.tokens.shape[1]
    places = torch.arange(1, num_columns + 1, dtype=torch.int64, device=hypotheses.tokens.device)
    is_token = (hypotheses.tokens != padding_id) & (places <= hypotheses.token_lengths[:, None])
    lengths = (is_token * places).amax(dim=1) if num_columns else hypotheses.token_lengths
    longest = int(lengths.max()) if len(lengths) else 0
    return hypotheses._replace(token_lengths=lengths).first(longest)
