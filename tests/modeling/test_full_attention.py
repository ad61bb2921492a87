"""Both forms of full, limited and chunked attention against loops over single frames."""

from __future__ import annotations

import math

import pytest
import torch
from attention_cases import (
    CONTEXTS,
    CPU,
    HEAD_DIM,
    HEADS,
    LENGTHS,
    draw,
    draw_states,
    softmax,
)

from transformers_fastconformer.modeling.full_attention import eager_attention, relative_shift, sdpa_attention
from transformers_fastconformer.modeling.masking import ContextWindow, FrameMask, lengths_to_mask, resolve_context


def assert_near(ours: torch.Tensor, truth: torch.Tensor, share: float = 5e-6) -> None:
    """Largest difference at most `share` of the largest magnitude of the truth."""
    assert ours.shape == truth.shape
    assert torch.isfinite(ours).all()
    if truth.numel():
        assert float((ours - truth).abs().max()) <= share * float(truth.abs().max())


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (1, 5), (4, 4), (3, 7)])
def test_relative_shift_gives_each_query_its_distances(num_queries: int, num_keys: int) -> None:
    scores = draw(2, num_queries, num_keys + num_queries - 1)
    shifted = relative_shift(scores, num_keys)
    for query in range(num_queries):
        first = num_queries - 1 - query
        assert torch.equal(shifted[:, query], scores[:, query, first : first + num_keys])


@pytest.mark.parametrize(("style", "context"), CONTEXTS)
@pytest.mark.parametrize("has_positions", [True, False])
def test_eager_attention_is_the_loop(style: str, context: list[int], has_positions: bool) -> None:
    num_frames = 9
    query_u, query_v, key, value = draw_states(num_frames, batch_size=1)
    position_key = draw(1, HEADS, 2 * num_frames - 1, HEAD_DIM)
    mask = FrameMask(num_frames, resolve_context(style, context)).rows(slice(None), slice(None), CPU)
    output, probabilities = eager_attention(
        query_u, query_v if has_positions else None, key, value, position_key, mask, 0.0
    )
    for head in range(HEADS):
        for i in range(num_frames):
            seen = [j for j in range(num_frames) if mask is None or bool(mask[0, 0, i, j])]
            scores = [
                float(
                    query_u[0, head, i] @ key[0, head, j]
                    + (query_v[0, head, i] @ position_key[0, head, num_frames - 1 - i + j] if has_positions else 0.0)
                )
                / math.sqrt(HEAD_DIM)
                for j in seen
            ]
            shares = softmax(scores)
            expected = sum(share * value[0, head, j] for j, share in zip(seen, shares, strict=True))
            torch.testing.assert_close(output[0, head, i], expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                probabilities[0, head, i, seen], torch.tensor(shares, dtype=torch.float32), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize(("style", "context"), CONTEXTS)
@pytest.mark.parametrize("has_positions", [True, False])
@pytest.mark.parametrize("block_frames", [1, 4, 19, None])
def test_sdpa_attention_equals_eager(
    style: str, context: list[int], has_positions: bool, block_frames: int | None
) -> None:
    num_frames = 19
    query_u, query_v, key, value = draw_states(num_frames)
    position_key = draw(1, HEADS, 2 * num_frames - 1, HEAD_DIM) if has_positions else None
    for padding_mask in (None, lengths_to_mask(LENGTHS, num_frames)):
        mask = FrameMask(num_frames, resolve_context(style, context), padding_mask)
        parts = (query_u, query_v if has_positions else None, key, value, position_key)
        expected, _ = eager_attention(*parts, mask.rows(slice(None), slice(None), CPU), 0.0)
        output = sdpa_attention(*parts, mask, 0.0, block_frames)
        keep = padding_mask if padding_mask is not None else torch.ones(len(LENGTHS), num_frames, dtype=torch.bool)
        torch.testing.assert_close(output.transpose(1, 2)[keep], expected.transpose(1, 2)[keep], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block_frames", [1, 2, 3, 7, 12, 13, 14, 512])
@pytest.mark.parametrize(
    "window",
    [
        ContextWindow(),
        ContextWindow(1, 3, 1),
        ContextWindow(1, None, 0),
        ContextWindow(2, 4, 0),
        ContextWindow(3, 2, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("has_positions", [True, False])
def test_blocks_of_queries_change_nothing(block_frames, window, has_positions):
    generator = torch.Generator().manual_seed(0)
    frames = 13

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    query_u, query_v, key, value = (draw(3, 2, frames, 4) for _ in range(4))
    position_key = draw(1, 2, 2 * frames - 1, 4)
    if not has_positions:
        query_v, position_key = None, None
    frame = torch.arange(frames)
    for padding_mask in (None, frame < torch.tensor([[13], [6], [0]])):
        mask = FrameMask(frames, window, padding_mask)
        rows = mask.rows(slice(0, frames), slice(0, frames), query_u.device)
        truth, _ = eager_attention(query_u, query_v, key, value, position_key, rows, 0.0)
        for form in (mask, mask.materialize(query_u.device)):
            ours = sdpa_attention(query_u, query_v, key, value, position_key, form, 0.0, block_frames=block_frames)
            assert_near(ours, truth, 1e-12)
