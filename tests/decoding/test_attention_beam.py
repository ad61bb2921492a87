"""Beam search with an attention decoder against a loop over one clip and one text at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from transformers_fastconformer.decoding.attention_beam import decode_attention_by_beams

END, PADDING, NUM_CLASSES = 1, 0, 7
PROMPT = [3, 3]


@dataclass
class Table:
    """Scores that depend on the clip, the last two tokens and the place, drawn from a table."""

    scores: torch.Tensor  # (clips, places, classes, classes)
    before: torch.Tensor  # (rows,)
    clips: torch.Tensor
    past: int = 0

    def select(self, rows: torch.Tensor) -> Table:
        return Table(self.scores, self.before[rows], self.clips[rows], self.past)

    def reorder(self, parents: torch.Tensor) -> Table:
        assert torch.equal(self.clips[parents], self.clips)  # what belongs to a clip need not move
        return Table(self.scores, self.before[parents], self.clips, self.past)


def step(tokens: torch.Tensor, state: Table) -> tuple[torch.Tensor, Table]:
    past = state.past + tokens.shape[1]
    before = tokens[:, -2] if tokens.shape[1] > 1 else state.before
    logits = state.scores[state.clips, past, before, tokens[:, -1]]
    return logits, Table(state.scores, tokens[:, -1], state.clips, past)


def search_by_loop(scores: torch.Tensor, limit: int, beam_size: int, alpha: float) -> list[int]:
    """NeMo's rules for one clip, a text at a time."""

    def log_probs(text: list[int]) -> list[tuple[float, int]]:
        values, classes = scores[len(text), text[-2], text[-1]].log_softmax(dim=0).topk(beam_size)
        return list(zip(values.tolist(), classes.tolist(), strict=True))

    def penalty(length: int) -> float:
        return ((5 + length) / 6) ** alpha

    def length_of(text: list[int]) -> int:
        return 1 + sum(token not in (END, PADDING) for token in text)

    beam = [([*PROMPT, token], score) for score, token in log_probs(PROMPT)]
    penalties = [penalty(len(PROMPT) + 2)] * beam_size
    for _ in range(limit - 1):
        if all(text[-1] in (END, PADDING) for text, _ in beam):
            break
        candidates = []
        for place, (text, score) in enumerate(beam):
            for rank, (added, token) in enumerate(log_probs(text)):
                if text[-1] in (END, PADDING):
                    added, token = added * (0.0 if rank == 0 else 10001.0), PADDING
                candidates.append(((score + added) / penalties[place], [*text, token]))
        candidates.sort(key=lambda candidate: -candidate[0])
        beam = [(text, score * penalties[place]) for place, (score, text) in enumerate(candidates[:beam_size])]
        penalties = [penalty(length_of(text)) for text, _ in beam]
    best = max(range(beam_size), key=lambda place: beam[place][1] / penalties[place])
    text = beam[best][0][len(PROMPT) :]
    return text[: next((place for place, token in enumerate(text) if token in (END, PADDING)), len(text))]


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("beam_size", [2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_texts_are_those_of_a_loop(seed: int, beam_size: int, alpha: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(4, 12, NUM_CLASSES, NUM_CLASSES, NUM_CLASSES, generator=generator)
    limits = [6, 9, 0, 3]
    hypotheses = decode_attention_by_beams(
        step,
        Table(scores, torch.zeros(4, dtype=torch.int64), torch.arange(4)),
        torch.tensor([PROMPT] * 4),
        torch.tensor(limits),
        (END, PADDING),
        PADDING,
        beam_size,
        alpha,
        score=lambda logits, tokens: logits.gather(1, tokens[:, None])[:, 0],
    )
    found = [
        row[:count].tolist() for row, count in zip(hypotheses.tokens, hypotheses.token_lengths.tolist(), strict=True)
    ]
    expected = [
        search_by_loop(scores[clip], limit, beam_size, alpha) if limit else [] for clip, limit in enumerate(limits)
    ]
    assert found == expected
    # Log-probabilities are those of the tokens.
    for clip, text in enumerate(found):
        whole = [*PROMPT, *text]
        for place in range(len(text)):
            before, last = whole[place : place + 2]
            value = scores[clip, place + 2, before, last].log_softmax(dim=0)[text[place]]
            assert math.isclose(float(hypotheses.log_probs[clip, place]), float(value), abs_tol=1e-5)
            # Scores are of the row that each token of the best text was taken from.
            assert hypotheses.scores[clip, place] == scores[clip, place + 2, before, last, text[place]]
