"""Forced alignment: the likeliest of all paths, its edges, and refusals."""

from __future__ import annotations

import pytest
import torch
from forced_alignment_loop import best_score, collapse

from transformers_fastconformer.decoding.forced_alignment import AlignedToken, align_tokens, count_needed_frames

BLANK = 3


def path_of(aligned: list[AlignedToken], num_frames: int) -> list[int]:
    path = [BLANK] * num_frames
    for token in aligned:
        path[token.start_frame : token.stop_frame] = [token.token_id] * (token.stop_frame - token.start_frame)
    return path


@pytest.mark.parametrize("token_ids", [[0], [0, 1], [0, 0], [2, 1, 2], [1, 1, 1], []])
def test_the_path_is_the_likeliest_of_all(token_ids: list[int]) -> None:
    generator = torch.Generator().manual_seed(len(token_ids))
    for num_frames in range(max(count_needed_frames(token_ids), 1), 7):
        log_probs = torch.randn(num_frames, 4, generator=generator).log_softmax(dim=-1)
        aligned = align_tokens(log_probs, token_ids, BLANK)
        path = path_of(aligned, num_frames)
        assert [token.token_id for token in aligned] == token_ids == collapse(path, BLANK)
        found = sum(float(log_probs[frame, label]) for frame, label in enumerate(path))
        if token_ids:
            assert found == pytest.approx(best_score(log_probs.tolist(), token_ids, BLANK), abs=1e-5)
        for token in aligned:
            expected = log_probs[token.start_frame : token.stop_frame, token.token_id].mean()
            assert token.log_prob == pytest.approx(float(expected))


def test_tokens_are_where_their_classes_are() -> None:
    path = [3, 0, 0, 3, 3, 1, 1, 1, 3, 1, 3]
    log_probs = torch.full((len(path), 4), -9.0)
    log_probs[range(len(path)), path] = 0.0
    found = align_tokens(log_probs, [0, 1, 1], BLANK)
    assert [token[:3] for token in found] == [(0, 1, 3), (1, 5, 8), (1, 9, 10)]


def test_frames_of_a_long_clip_follow_each_other() -> None:
    token_ids = [place % 3 for place in range(400)]
    log_probs = torch.zeros(3000, 4)
    aligned = align_tokens(log_probs, token_ids, BLANK)
    ends = [token.stop_frame for token in aligned]
    assert all(token.start_frame < token.stop_frame for token in aligned)
    assert all(end <= token.start_frame for end, token in zip(ends, aligned[1:], strict=False))


@pytest.mark.parametrize(
    ("token_ids", "num_frames", "message"),
    [
        ([0, 0], 2, "2 tokens, which need 3 frames; expected at most the 2"),
        ([4], 3, "token_ids has 4; expected classes 0 to 3"),
        ([BLANK], 3, "token_ids has 3"),
        ([0], 0, "1 tokens, which need 1 frames"),
    ],
)
def test_what_does_not_fit_is_refused(token_ids: list[int], num_frames: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_tokens(torch.zeros(num_frames, 4), token_ids, BLANK)
