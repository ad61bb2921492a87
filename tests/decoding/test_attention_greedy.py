"""Greedy decoding with an attention decoder, by a scripted step function."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from transformers_fastconformer.decoding.attention_greedy import decode_attention_greedily
from transformers_fastconformer.decoding.phrase_boosting import PhraseBoosting, build_phrase_automaton
from transformers_fastconformer.decoding.token_automaton import TokenAutomaton
from transformers_fastconformer.decoding.token_scorer import TokenScorer

END, PADDING, NUM_CLASSES = 1, 0, 12
PROMPT = [3, 3, 3]


@dataclass
class Script:
    """Clips that say their own texts; `past` counts the tokens told so far, and `batches` holds their numbers."""

    texts: list[list[int]]
    batches: list[int] = field(default_factory=list)
    past: int = 0

    def select(self, clips: torch.Tensor) -> Script:
        return Script([self.texts[clip] for clip in clips.tolist()], self.batches, self.past)


def step(tokens: torch.Tensor, state: Script) -> tuple[torch.Tensor, Script]:
    assert len(tokens) == len(state.texts)
    state.batches.append(len(tokens))
    past = state.past + tokens.shape[1]
    said = past - len(PROMPT)
    logits = torch.zeros(len(tokens), NUM_CLASSES)
    for row, text in enumerate(state.texts):
        assert said == 0 or tokens[row].tolist() == [text[said - 1]]
        logits[row, text[said] if said < len(text) else END] = 2.0
    return logits, Script(state.texts, state.batches, past)


def decode(texts: list[list[int]], limits: list[int]) -> tuple[list[list[int]], list[int]]:
    script = Script(texts)
    prompts = torch.tensor([PROMPT] * len(texts))
    hypotheses = decode_attention_greedily(step, script, prompts, torch.tensor(limits), (END,), PADDING)
    counts = hypotheses.token_lengths.tolist()
    assert hypotheses.tokens.shape[1] == max(counts)
    return [row[:count].tolist() for row, count in zip(hypotheses.tokens, counts, strict=True)], script.batches


def test_clips_end_by_themselves_and_leave_the_batch() -> None:
    rows, batches = decode([[4, 5, 6], [7], [], [8, 9]], [9, 9, 9, 9])
    assert rows == [[4, 5, 6], [7], [], [8, 9]]
    assert batches == [4, 3, 2, 1]


def test_limits_count_the_token_that_ends_a_clip() -> None:
    rows, batches = decode([[4, 5, 6], [7, 8, 9], [4]], [2, 0, 1])
    assert rows == [[4, 5], [], [4]]
    assert batches == [2, 1]


def test_padding_at_the_end_of_a_clip_is_no_token() -> None:
    rows, _ = decode([[4, PADDING, 6, PADDING], [PADDING]], [9, 9])
    assert rows == [[4, PADDING, 6], []]


def test_no_clip_with_room_for_a_token() -> None:
    rows, batches = decode([[4], [5]], [0, 0])
    assert rows == [[], []]
    assert batches == []


@pytest.mark.parametrize("with_log_probs", [True, False])
def test_log_probabilities_are_computed_where_they_are_wanted(with_log_probs: bool) -> None:
    prompts = torch.tensor([PROMPT, PROMPT])
    hypotheses = decode_attention_greedily(
        step, Script([[4], [5, 6]]), prompts, torch.tensor([5, 5]), (END,), PADDING, with_log_probs
    )
    scores = torch.tensor([2.0] + [0.0] * (NUM_CLASSES - 1))
    expected = float(scores.log_softmax(dim=0)[0]) if with_log_probs else 0.0
    torch.testing.assert_close(hypotheses.log_probs, torch.tensor([[expected, 0.0], [expected, expected]]))


def test_scores_are_those_of_the_tokens() -> None:
    prompts = torch.tensor([PROMPT, PROMPT])
    hypotheses = decode_attention_greedily(
        step,
        Script([[4], [5, 6]]),
        prompts,
        torch.tensor([5, 5]),
        (END,),
        PADDING,
        score=lambda logits, tokens: tokens.float() / 10,
    )
    assert hypotheses.scores is not None
    torch.testing.assert_close(hypotheses.scores, torch.tensor([[0.4, 0.0], [0.5, 0.6]]))


def test_scores_of_phrases_are_added() -> None:
    """To log-probabilities, each clip by its own state, also once others have left the batch."""
    tree = build_phrase_automaton([([7, 8], 2)], PhraseBoosting(["x"], context_score=3.0), NUM_CLASSES - 2, 1.0)
    said: list[tuple[int, ...]] = []

    def flat(tokens: torch.Tensor, state: Script) -> tuple[torch.Tensor, Script]:
        """Each clip would say its own token again and again; three other tokens come close."""
        logits = torch.full((len(tokens), NUM_CLASSES), -9.0)
        for row, text in enumerate(state.texts):
            logits[row, text[0]] = 2.0
            logits[row, 7] = 0.0 if text[0] == 4 else -9.0
            logits[row, 8] = 0.0
            said.append((text[0], int(tokens[row, -1])))
        return logits, state

    arguments = (torch.tensor([PROMPT] * 3), torch.tensor([1, 4, 4]), (END,), PADDING)
    found = decode_attention_greedily(
        flat, Script([[6], [4], [5]]), *arguments, with_log_probs=True, scorer=TokenScorer([tree]), end_id=END
    )
    assert found.tokens[0, :1].tolist() == [6]
    assert found.tokens[1].tolist() == [7, 8, 7, 8]
    assert found.tokens[2].tolist() == [5, 5, 5, 5]
    own = torch.tensor([2.0, 0.0, 0.0]).log_softmax(dim=-1)[1]
    assert float(found.log_probs[1, 0]) == pytest.approx(float(own), abs=1e-3)
    each = TokenScorer([[TokenAutomaton.empty(NUM_CLASSES - 2), TokenAutomaton.empty(NUM_CLASSES - 2), tree]])
    found = decode_attention_greedily(flat, Script([[6], [5], [4]]), *arguments, scorer=each, end_id=END)
    assert found.tokens[1].tolist() == [5, 5, 5, 5]
    assert found.tokens[2].tolist() == [7, 8, 7, 8]


def test_the_end_is_raised_after_a_phrase() -> None:
    """A decoder that would go on for ever ends after the phrase, as the end scores as much as any token and more."""
    tree = build_phrase_automaton([([7, 8], 2)], PhraseBoosting(["x"], end_score=4.0), NUM_CLASSES, 1.0)

    def endless(tokens: torch.Tensor, state: Script) -> tuple[torch.Tensor, Script]:
        logits = torch.zeros(len(tokens), NUM_CLASSES)
        logits[:, END] = -1.0
        return logits, state

    prompts, limits = torch.tensor([PROMPT]), torch.tensor([9])
    found = decode_attention_greedily(
        endless, Script([[0]]), prompts, limits, (END,), PADDING, scorer=TokenScorer([tree]), end_id=END
    )
    assert found.tokens.tolist() == [[7, 8]]
