"""Attention over rings next to a plain loop over all frames of each stream."""

from __future__ import annotations

import math

import pytest
import torch

from transformers_fastconformer.modeling.masking import ContextWindow
from transformers_fastconformer.modeling.ring_attention import RingTables, ring_attention

HEADS, SIZE = 2, 4


def attend_by_loop(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    distances: dict[int, torch.Tensor],
    window: ContextWindow,
) -> torch.Tensor:
    """Every query to every key that its window holds, one after the other: (heads, frames, size)."""
    output = torch.zeros_like(queries)
    for query in range(queries.shape[1]):
        chunk = query // window.chunk_frames * window.chunk_frames
        seen = range(
            max(chunk - window.left_frames, 0), min(chunk + window.chunk_frames + window.right_frames, keys.shape[1])
        )
        for head in range(queries.shape[0]):
            scores = torch.stack(
                [queries[head, query] @ (keys[head, key] + distances[query - key][head]) for key in seen]
            ) / math.sqrt(SIZE)
            output[head, query] = scores.softmax(dim=0) @ values[head, list(seen)]
    return output


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize(
    ("window", "left_frames", "step_frames", "kept_frames"),
    [
        (ContextWindow(2, 4, 0), 4, 2, 2),
        (ContextWindow(2, 4, 0), 4, 6, 6),
        (ContextWindow(3, 3, 0), 3, 3, 3),
        (ContextWindow(1, 5, 0), 5, 1, 1),
        (ContextWindow(1, 5, 0), 5, 4, 4),
        (ContextWindow(1, 4, 1), 4, 3, 2),  # the last frame of a step is computed again
        (ContextWindow(2, 0, 0), 0, 2, 2),
    ],
)
def test_rings_are_the_whole_history(
    window: ContextWindow, left_frames: int, step_frames: int, kept_frames: int, is_plain: bool
):
    generator = torch.Generator().manual_seed(0)
    tables = RingTables.build(window, left_frames, step_frames, torch.device("cpu"))
    position_key = torch.randn(1, HEADS, len(tables.build_distances()), SIZE, generator=generator, dtype=torch.float64)
    distances = {int(d): position_key[0, :, i] for i, d in enumerate(tables.build_distances())}
    num_frames, num_streams = 8 * step_frames, 3
    shape = (num_streams, HEADS, num_frames, SIZE)
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    rings = [torch.zeros(num_streams, HEADS, tables.num_slots, SIZE, dtype=torch.float64) for _ in range(2)]
    known = [0] * num_streams
    outputs: list[list[torch.Tensor]] = [[] for _ in range(num_streams)]
    for turn in range(10):
        # The second stream starts two steps later, the third rests every other step.
        rows = [r for r in range(num_streams) if not (r == 1 and turn < 2) and not (r == 2 and turn % 2)]
        rows = [r for r in rows if known[r] + step_frames <= num_frames]
        if not rows:
            continue
        taken = [
            torch.stack([part[r, :, known[r] : known[r] + step_frames] for r in rows]) for part in (query, key, value)
        ]
        index = None if len(rows) == num_streams else torch.tensor(rows)
        step = tables.locate(index, [known[r] for r in rows], [step_frames] * len(rows), step_frames)
        held = [step.exchange(ring, new) for ring, new in zip(rings, taken[1:], strict=True)]
        found = ring_attention(taken[0], taken[0], *held, position_key, step, is_plain)
        for r, frames in zip(rows, found, strict=True):
            outputs[r].append(frames[:, :kept_frames])
            known[r] += kept_frames
    for r in range(num_streams):
        assert known[r] >= 2 * tables.step_frames
        found = torch.cat(outputs[r], dim=1)
        expected = attend_by_loop(query[r], key[r], value[r], distances, window)[:, : found.shape[1]]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_frames_beyond_the_end_of_a_stream_are_not_seen():
    tables = RingTables.build(ContextWindow(4, 4, 0), 4, 4, torch.device("cpu"))
    step = tables.locate(None, [0, 4], [4, 3], 4)
    assert step.mask is not None
    assert step.mask[:, 0, 0].tolist() == [[True] * 4 + [False] * 4, [True] * 7 + [False]]
    assert tables.locate(None, [4, 8], [4, 4], 4).mask is None
