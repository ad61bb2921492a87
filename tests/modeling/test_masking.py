"""Masks against loops over single frames, and lengths against masks."""

from __future__ import annotations

import itertools

import pytest
import torch

from transformers_fastconformer.modeling.masking import (
    ContextWindow,
    FrameMask,
    lengths_to_mask,
    resolve_context,
    resolve_lengths,
)

CPU = torch.device("cpu")
CONTEXTS = [
    ("regular", [-1, -1]),
    ("regular", [3, 2]),
    ("regular", [0, 0]),
    ("regular", [-1, 0]),
    ("regular", [4, -1]),
    ("chunked_limited", [-1, -1]),
    ("chunked_limited", [6, 2]),
    ("chunked_limited", [0, 3]),
    ("chunked_limited", [-1, 1]),
    ("chunked_limited", [5, -1]),
    ("chunked_limited", [7, 2]),
    ("chunked_limited_with_rc", [-1, -1, -1]),
    ("chunked_limited_with_rc", [4, 3, 2]),
    ("chunked_limited_with_rc", [0, 1, 0]),
    ("chunked_limited_with_rc", [2, 5, 9]),
]


def sees(style: str, context: list[int], query: int, key: int) -> bool:
    """Whether a query may see a key, written out for one pair."""
    if style == "chunked_limited_with_rc":
        left, chunk, right = context
        first = query // chunk * chunk
        return max(context) < 0 or first - left <= key < first + chunk + right
    left, right = context
    if style == "chunked_limited" and right >= 0:
        chunks_back = query // (right + 1) - key // (right + 1)
        return chunks_back >= 0 and (left < 0 or chunks_back <= left // (right + 1))
    return (left < 0 or query - key <= left) and (right < 0 or key - query <= right)


@pytest.mark.parametrize(("style", "context"), CONTEXTS)
@pytest.mark.parametrize("num_frames", [1, 2, 17])
def test_window_sees_what_the_loop_sees(style: str, context: list[int], num_frames: int) -> None:
    expected = torch.tensor(
        [[sees(style, context, query, key) for key in range(num_frames)] for query in range(num_frames)]
    )
    frame = torch.arange(num_frames)
    assert torch.equal(resolve_context(style, context).build_mask(frame, frame), expected)


@pytest.mark.parametrize(("style", "context"), CONTEXTS)
def test_key_range_is_the_extent_of_the_mask(style: str, context: list[int]) -> None:
    num_frames = 13
    window = resolve_context(style, context)
    frame = torch.arange(num_frames)
    matrix = window.build_mask(frame, frame)
    for start, stop in itertools.combinations(range(num_frames + 1), 2):
        seen = matrix[start:stop].any(dim=0).nonzero().flatten()
        assert window.key_range(start, stop, num_frames) == (int(seen[0]), int(seen[-1]) + 1)


def test_number_of_frames_seen() -> None:
    assert resolve_context("regular", [3, 2]).num_frames == 6
    assert resolve_context("chunked_limited", [7, 2]).num_frames == 9  # two whole chunks and the own one
    assert resolve_context("chunked_limited_with_rc", [4, 3, 2]).num_frames == 9
    assert resolve_context("regular", [3, -1]).num_frames is None


@pytest.mark.parametrize(("style", "context"), CONTEXTS)
@pytest.mark.parametrize("has_padding", [False, True])
@pytest.mark.parametrize("is_materialized", [False, True])
def test_rows_are_slices_of_the_whole_mask(
    style: str, context: list[int], has_padding: bool, is_materialized: bool
) -> None:
    num_frames = 11
    window = resolve_context(style, context)
    padding_mask = lengths_to_mask(torch.tensor([11, 4, 0]), num_frames) if has_padding else None
    mask = FrameMask(num_frames, window, padding_mask)
    frame = torch.arange(num_frames)
    expected = window.build_mask(frame, frame)[None, None]
    if padding_mask is not None:
        expected = expected & padding_mask[:, None, None]
    if is_materialized:
        mask = mask.materialize(CPU)
    for queries, keys in ((slice(0, 11), slice(0, 11)), (slice(3, 7), slice(1, 9)), (slice(10, 11), slice(0, 5))):
        rows = mask.rows(queries, keys, CPU)
        if window.is_unlimited and padding_mask is None:
            assert rows is None
        else:
            assert rows is not None
            wanted = expected[..., queries, keys]
            assert torch.equal(rows.expand_as(wanted), wanted)


def test_a_window_without_limits_makes_no_rows() -> None:
    assert ContextWindow().is_unlimited
    assert FrameMask(5, ContextWindow()).rows(slice(0, 5), slice(0, 5), CPU) is None


def test_lengths_to_mask() -> None:
    mask = lengths_to_mask(torch.tensor([0, 2, 3]), 3)
    assert mask.tolist() == [[False, False, False], [True, True, False], [True, True, True]]


def test_resolve_lengths_from_either_both_or_neither() -> None:
    lengths = torch.tensor([3, 1])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    for arguments in ((mask, None), (None, lengths), (mask, lengths), (mask.bool(), lengths.int())):
        resolved = resolve_lengths(*arguments, 2, 4)
        assert resolved is not None
        assert resolved.dtype == torch.int64
        assert resolved.tolist() == [3, 1]
    assert resolve_lengths(None, None, 2, 4) is None


@pytest.mark.parametrize(
    ("mask", "lengths", "message"),
    [
        (None, [3], r"input_lengths has shape \(1,\); expected \(2,\)"),
        (None, [3, 5], r"input_lengths=\[3, 5\] must lie between 0 and 4"),
        (None, [-1, 2], "must lie between 0 and 4"),
        ([[1, 1, 1]], None, r"attention_mask has shape \(1, 3\); expected \(2, 4\)"),
        ([[0, 1, 1, 1], [1, 0, 0, 0]], None, "padding on the left or gaps"),
        ([[1, 0, 1, 0], [1, 0, 0, 0]], None, "padding on the left or gaps"),
        ([[1, 1, 1, 0], [1, 0, 0, 0]], [3, 2], "disagree"),
    ],
)
def test_resolve_lengths_refuses(mask: list[list[int]] | None, lengths: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_lengths(
            None if mask is None else torch.tensor(mask), None if lengths is None else torch.tensor(lengths), 2, 4
        )
