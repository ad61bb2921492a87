"""Random transducers to decode, the readable loop over a model, and what equal results are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from models import BLANK
from scripted_transducer import ScriptedTransducer
from tolerances import DECODING

from transformers_fastconformer.decoding.hypotheses import Hypotheses
from transformers_fastconformer.decoding.state import TransducerState
from transformers_fastconformer.decoding.transducer_greedy import transducer_greedy_decode


def assert_equal(found: Hypotheses, expected: Hypotheses, tolerance: float = DECODING) -> None:
    for name in ("tokens", "token_lengths", "frame_indices", "durations"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if theirs is None:
            assert ours is None
            continue
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), name
    assert found.log_probs.dtype == expected.log_probs.dtype
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=tolerance)


def assert_states_equal(found: TransducerState, expected: TransducerState, tolerance: float = 0.0) -> None:
    assert torch.equal(found.frames_ahead, expected.frames_ahead)
    torch.testing.assert_close(found.predictor_output, expected.predictor_output, rtol=0, atol=tolerance)
    for ours, theirs in zip(found.predictor_state, expected.predictor_state, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def random_cases(
    durations: list[int] | None, num_cases: int
) -> Iterator[tuple[ScriptedTransducer, torch.Tensor, torch.Tensor, int]]:
    """Networks, rows, lengths and limit: batches with an empty clip, with one much longer than the others."""
    generator = torch.Generator().manual_seed(1)
    for case in range(num_cases):
        networks = ScriptedTransducer(case, durations, blank_bonus=[-3.0, 0.0, 1.0, 3.0][case % 4])
        batch_size = 1 + case % 5
        lengths = torch.randint(0, 12, (batch_size,), generator=generator)
        if case % 3 == 0:
            lengths[0] = 0
        if case % 7 == 0:
            lengths[-1] = 40
        rows = torch.randint(0, 64, (batch_size, int(lengths.max()) + case % 2), generator=generator)
        yield networks, rows, lengths, [1, 2, 3, 10][case // 4 % 4]


def readable(model: Any, frames: torch.Tensor, lengths: torch.Tensor, **options: Any):
    with torch.no_grad():
        return transducer_greedy_decode(
            model.joint.encoder_proj(frames),
            lengths,
            predict=model._predict,
            joint=model.joint,
            blank_id=BLANK,
            padding_id=BLANK,
            durations=getattr(model.config, "durations", None),
            **options,
        )
