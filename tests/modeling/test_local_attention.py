"""Both forms of attention in a sliding window against loops over single frames, with global tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_cases import (
    CPU,
    HEAD_DIM,
    HEADS,
    LENGTHS,
    draw,
    draw_states,
    softmax,
)

from transformers_fastconformer.modeling.local_attention import (
    blocked_local_attention,
    eager_local_attention,
    local_distances,
    select_global_tokens,
)
from transformers_fastconformer.modeling.masking import lengths_to_mask

# Equal sides; unequal ones with a narrow side of none, less than half, half and more than half of the wide one.
WINDOWS = [(1, 1), (4, 4), (30, 30), (8, 0), (8, 3), (8, 4), (8, 6), (0, 8), (3, 8), (4, 8), (6, 8)]
TOKENS = [(0, 1), (1, 1), (3, 1), (4, 5), (2, 30)]  # number, spacing


@pytest.mark.parametrize(("left", "right"), WINDOWS)
def test_position_of_each_key_in_the_window(left: int, right: int) -> None:
    """
    NeMo adds `left` terms from the far edge of a window of twice the wide side, and `right + 1` up to its other edge.
    """
    wide = max(left, right)
    columns: list[int | None] = [None] * (2 * wide + 1)
    for index in range(left):
        columns[index] = left - index
    for index in range(right + 1):
        columns[2 * wide - right + index] = -index
    expected = columns[wide - left : wide + right + 1]
    distances, has_term = local_distances(left, right, CPU)
    found = [int(distance) if term else None for distance, term in zip(distances, has_term, strict=True)]
    assert found == expected
    if left == right:
        assert found == list(range(left, -right - 1, -1))


def attend_locally_in_loops(
    states: dict[str, torch.Tensor], window: tuple[int, int], num_tokens: int, spacing: int
) -> torch.Tensor:
    """One clip: (heads, frames, head_dim). `states` are query_u, query_v, key, value, position_key and global ones."""
    left, right = window
    num_frames = states["key"].shape[1]
    tokens = [token * spacing for token in range(num_tokens) if token * spacing < num_frames]
    root = math.sqrt(HEAD_DIM)
    output = torch.zeros(HEADS, num_frames, HEAD_DIM)
    for head in range(HEADS):
        own = {name: tensor[head] for name, tensor in states.items()}
        for i in range(num_frames):
            scores, values = [], []
            for token in tokens:
                scores.append(float(own["global_query"][i] @ own["global_key"][token]) / root)
                values.append(own["value"][token])
            for j in range(max(i - left, 0), min(i + right + 1, num_frames)):
                score = own["query_u"][i] @ own["key"][j]
                score = score + own["query_v"][i] @ own["position_key"][j - i + left]
                scores.append(float(score) / root)
                values.append(own["value"][j])
            output[head, i] = sum(
                (share * value for share, value in zip(softmax(scores), values, strict=True)), torch.zeros(HEAD_DIM)
            )
    # The queries of the tokens, laid out token by token and read head by head.
    shelf = [states["global_query"][head, token] for token in tokens for head in range(HEADS)]
    for head in range(HEADS):
        for place, token in enumerate(tokens):
            query = shelf[head * len(tokens) + place]
            shares = softmax([float(query @ key) / root for key in states["global_key"][head]])
            output[head, token] = sum(
                (share * value for share, value in zip(shares, states["global_value"][head], strict=True)),
                torch.zeros(HEAD_DIM),
            )
    return output


def make_local_parts(
    num_frames: int, window: tuple[int, int], num_tokens: int, spacing: int, lengths: torch.Tensor | None
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Arguments of both forms, and the tensors for the loops."""
    batch_size = 1 if lengths is None else len(lengths)
    query_u, query_v, key, value, *global_states = draw_states(num_frames, batch_size, count=7)
    position_key = draw(1, HEADS, sum(window) + 1, HEAD_DIM)
    padding_mask = None if lengths is None else lengths_to_mask(lengths, num_frames)
    tokens = None
    if num_tokens:
        tokens = select_global_tokens(tuple(global_states), num_tokens, spacing, padding_mask)  # type: ignore[arg-type]
    names = ("query_u", "query_v", "key", "value", "global_query", "global_key", "global_value")
    states = dict(zip(names, (query_u, query_v, key, value, *global_states), strict=True))
    return (query_u, query_v, key, value, position_key, window, padding_mask, tokens), states | {
        "position_key": position_key.expand(batch_size, -1, -1, -1)
    }


@pytest.mark.parametrize("window", WINDOWS[:6])
@pytest.mark.parametrize(("num_tokens", "spacing"), TOKENS)
def test_local_attention_is_the_loop_for_each_clip_of_a_batch(
    window: tuple[int, int], num_tokens: int, spacing: int
) -> None:
    """Also with several global tokens, where a clip must be what it is alone."""
    parts, states = make_local_parts(19, window, num_tokens, spacing, LENGTHS)
    outputs = eager_local_attention(*parts, 0.0)[0], blocked_local_attention(*parts, 0.0)
    for index, length in enumerate(LENGTHS.tolist()):
        clip = {name: tensor[index] for name, tensor in states.items()}
        for name in clip:
            if name != "position_key":
                clip[name] = clip[name][:, :length]
        expected = attend_locally_in_loops(clip, window, num_tokens, spacing)
        for output in outputs:
            torch.testing.assert_close(output[index, :, :length], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("num_tokens", "spacing"), TOKENS)
def test_blocks_equal_the_plain_form(window: tuple[int, int], num_tokens: int, spacing: int) -> None:
    for num_frames in (1, 2, 7, 8, 33):
        parts, _ = make_local_parts(num_frames, window, num_tokens, spacing, lengths=None)
        expected, probabilities = eager_local_attention(*parts, 0.0)
        assert probabilities.shape == (1, HEADS, num_frames, num_tokens + num_frames)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, HEADS, num_frames))
        for block_frames, group_frames in ((1, 1), (3, 9), (8, 8), (64, 64), (None, 4096)):
            output = blocked_local_attention(*parts, 0.0, block_frames, group_frames)
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_both_local_forms_are_equal() -> None:
    gradients = []
    parts, _ = make_local_parts(19, (4, 3), 3, 2, LENGTHS)
    leaves = [part.requires_grad_() for part in parts[:5]]
    weights = draw(len(LENGTHS), HEADS, 19, HEAD_DIM) * lengths_to_mask(LENGTHS, 19)[:, None, :, None]
    for output in (eager_local_attention(*parts, 0.0)[0], blocked_local_attention(*parts, 0.0, 4)):
        gradients.append(torch.autograd.grad((output * weights).sum(), leaves))
    for plain, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_dropout_of_both_local_forms_keeps_the_mean() -> None:
    parts, _ = make_local_parts(16, (4, 4), 2, 3, lengths=None)
    expected, _ = eager_local_attention(*parts, 0.0)
    for attend in (lambda: eager_local_attention(*parts, 0.3)[0], lambda: blocked_local_attention(*parts, 0.3)):
        outputs = torch.stack([attend() for _ in range(200)])
        assert not torch.equal(outputs[0], outputs[1])
        assert (outputs.mean(dim=0) - expected).abs().mean() < 0.05
