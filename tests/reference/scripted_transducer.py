"""Transducer networks whose answers are read from a table, to test decoding without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from decoding_loop import Emission, decode_transducer_clip

from transformers_fastconformer.decoding.hypotheses import Hypotheses
from transformers_fastconformer.decoding.transducer_greedy import transducer_greedy_decode

BLANK, PADDING = 4, 9
NUM_STATES = 13
DURATIONS: dict[str, list[int] | None] = {
    "rnnt": None,
    "tdt": [0, 1, 2, 3, 4],
    "tdt_far": [0, 2, 4, 8],
    "tdt_without_0": [1, 2, 3],
    "tdt_only_0": [0],
    "tdt_unordered": [3, 0, 1],
}
# Each with the usual strategy, and those with the other one for which it is another.
STRATEGIES = [
    *((name, "greedy_batch") for name in DURATIONS),
    *((name, "greedy") for name in ("tdt", "tdt_far", "tdt_unordered")),
]


class ScriptedTransducer:
    """
    Networks whose answers are read from a random table: the frame holds its row, the prediction a number that every
    token changes. A state wrongly given to another clip, or not updated, leads to another column.
    """

    def __init__(self, seed: int, durations: list[int] | None, blank_bonus: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        num_classes = BLANK + 1 + (0 if durations is None else len(durations))
        self.table = torch.randn(64, NUM_STATES, num_classes, generator=generator)
        self.table[..., BLANK] += blank_bonus
        self.durations = durations
        self.clips_asked: list[int] = []

    def predict(
        self, tokens: torch.Tensor, state: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        if state is None:
            assert (tokens == BLANK).all()
            number = torch.zeros(tokens.shape[0], dtype=torch.int64)
            count = torch.zeros_like(number)
        else:
            # Two parts of different shapes, (layers, clips, ...), as an LSTM has.
            assert state[0].is_contiguous()
            assert state[1].is_contiguous()
            assert state[0].shape == (2, len(tokens), 1)
            number = (5 * state[0][1, :, 0] + 3 * tokens + 1 + state[1][0]) % NUM_STATES
            count = state[1][0] + 1
        return number[:, None].float(), (torch.stack([-number, number])[..., None], count[None])

    def joint(self, frames: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
        self.clips_asked.append(len(frames))
        frames, predictions = torch.broadcast_tensors(frames, predictions)
        return self.table[frames[:, 0].long(), predictions[:, 0].long()]

    def logits_of(self, frame_row: int, tokens: tuple[int, ...]) -> list[float]:
        number = 0
        for count, token in enumerate(tokens):
            number = (5 * number + 3 * token + 1 + count) % NUM_STATES
        return self.table[frame_row, number].tolist()

    def decode(
        self,
        rows: torch.Tensor,
        lengths: torch.Tensor,
        decode: Callable[..., Any] = transducer_greedy_decode,
        **options: Any,
    ):
        return decode(
            rows[..., None].float(),
            lengths,
            predict=self.predict,
            joint=self.joint,
            blank_id=BLANK,
            padding_id=PADDING,
            durations=self.durations,
            **options,
        )

    def decode_by_loop(
        self, rows: list[int], max_symbols: int | None, strategy: str = "greedy_batch"
    ) -> list[Emission]:
        return decode_transducer_clip(
            lambda frame, tokens: self.logits_of(rows[frame], tokens),
            len(rows),
            BLANK,
            self.durations,
            max_symbols,
            strategy,
        )


def emissions_of(hypotheses: Hypotheses, clip: int) -> list[tuple[int, int, int]]:
    """Token, frame and duration (0 for RNN-T) of one clip; checks that the rest is padding."""
    count = int(hypotheses.token_lengths[clip])
    assert (hypotheses.tokens[clip, count:] == PADDING).all()
    assert (hypotheses.frame_indices[clip, count:] == 0).all()
    assert (hypotheses.log_probs[clip, count:] == 0).all()
    durations = hypotheses.frame_indices.new_zeros(hypotheses.tokens.shape)
    if hypotheses.durations is not None:
        durations = hypotheses.durations
        assert (durations[clip, count:] == 0).all()
    columns = (hypotheses.tokens, hypotheses.frame_indices, durations)
    return list(zip(*(column[clip, :count].tolist() for column in columns), strict=True))
