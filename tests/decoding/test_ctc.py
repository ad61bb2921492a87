"""Greedy CTC decoding against a plain loop."""

from __future__ import annotations

import pytest
import torch
from decoding_loop import decode_ctc_clip
from phrase_cases import random_tree
from phrase_loop import choose_ctc_by_loop

from transformers_fastconformer.decoding.confidence import ConfidenceOptions, ctc_confidence
from transformers_fastconformer.decoding.ctc import ctc_decode_frames, ctc_greedy_decode
from transformers_fastconformer.decoding.state import CTCState
from transformers_fastconformer.decoding.token_scorer import TokenScorer

BLANK, PADDING = 4, 9


def scripted(rows: list[list[int]]) -> torch.Tensor:
    """Log-probabilities (clips, frames, 5) whose best classes are these."""
    classes = torch.tensor(rows)
    return torch.nn.functional.one_hot(classes, BLANK + 1).mul(3.0).log_softmax(dim=-1)


def test_repetitions_merge_unless_a_blank_stands_between_them():
    log_probs = scripted([[1, 1, BLANK, 1, 2, 2, 1, BLANK, BLANK, 3]])
    found = ctc_greedy_decode(log_probs, torch.tensor([10]), BLANK, PADDING)
    assert found.tokens.tolist() == [[1, 1, 2, 1, 3]]
    assert found.frame_indices.tolist() == [[0, 3, 4, 6, 9]]
    assert found.token_lengths.tolist() == [5]


def test_frames_beyond_the_length_do_not_count():
    log_probs = scripted([[1, 2, 3, 0], [BLANK, BLANK, 1, 2], [3, 2, 1, 0]])
    found = ctc_greedy_decode(log_probs, torch.tensor([2, 2, 0]), BLANK, PADDING)
    assert found.tokens.tolist() == [[1, 2], [PADDING, PADDING], [PADDING, PADDING]]
    assert found.token_lengths.tolist() == [2, 0, 0]
    assert found.frame_indices.tolist() == [[0, 1], [0, 0], [0, 0]]
    assert found.log_probs[1:].abs().max() == 0


@pytest.mark.parametrize(("batch_size", "num_frames"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_decode(batch_size, num_frames):
    lengths = torch.zeros(batch_size, dtype=torch.int64)
    found = ctc_greedy_decode(torch.zeros(batch_size, num_frames, 5), lengths, BLANK, PADDING)
    assert found.tokens.shape == (batch_size, 0)
    assert found.token_lengths.tolist() == [0] * batch_size


def test_equals_the_loop_on_random_cases():
    generator = torch.Generator().manual_seed(0)
    num_tokens = 0
    for case in range(200):
        batch_size, num_frames = 1 + case % 4, case % 17
        # Few classes and rounded values: many repetitions, blanks and ties.
        logits = torch.randn(batch_size, num_frames, BLANK + 1, generator=generator).mul(2).round()
        logits[..., BLANK] += case % 3
        log_probs = logits.double().log_softmax(dim=-1)
        lengths = torch.randint(0, num_frames + 1, (batch_size,), generator=generator)
        found = ctc_greedy_decode(log_probs, lengths, BLANK, PADDING)
        for clip in range(batch_size):
            expected = decode_ctc_clip(log_probs[clip, : int(lengths[clip])].tolist(), BLANK)
            count = int(found.token_lengths[clip])
            num_tokens += count
            assert found.tokens[clip, :count].tolist() == [emission.token for emission in expected]
            assert found.frame_indices[clip, :count].tolist() == [emission.frame for emission in expected]
            assert found.log_probs[clip, :count].tolist() == [emission.log_prob for emission in expected]
            assert (found.tokens[clip, count:] == PADDING).all()
    assert num_tokens > 500


@pytest.mark.parametrize("is_confident", [False, True])
@pytest.mark.parametrize("sizes", [[20], [1] * 20, [7, 6, 7], [3, 0, 10, 7]])
def test_frames_in_pieces_give_the_tokens_of_the_whole(sizes, is_confident):
    """Tokens on both sides of a border are one, with the confidence of all their frames."""
    confidence = ConfidenceOptions(aggregation="mean") if is_confident else None
    generator = torch.Generator().manual_seed(5)
    best = torch.randint(0, 3, (3, 20), generator=generator)  # few classes: many repetitions, blanks among them
    scores = 3.0 * torch.nn.functional.one_hot(best, 4) + torch.rand(3, 20, 4, generator=generator)
    log_probs = scores.log_softmax(dim=-1)
    lengths = torch.tensor([20, 0, 13])
    expected = ctc_greedy_decode(log_probs, lengths, blank_id=0, padding_id=9)
    state, start = None, 0
    tokens: list[list[int]] = [[], [], []]
    frames: list[list[int]] = [[], [], []]
    confidences: list[list[float]] = [[], [], []]
    for size in sizes:
        piece_lengths = (lengths - start).clamp(0, size)
        found, state = ctc_decode_frames(log_probs[:, start : start + size], piece_lengths, 0, 9, confidence, state)
        for clip, count in enumerate(found.token_lengths.tolist()):
            tokens[clip] += found.tokens[clip, :count].tolist()
            frames[clip] += (found.frame_indices[clip, :count] + start).tolist()
            if is_confident:
                if state.revised_scores is not None and not state.revised_scores[clip].isnan():
                    confidences[clip][-1] = float(state.revised_scores[clip])
                confidences[clip] += found.scores[clip, :count].tolist()
        start += size
    for clip, count in enumerate(expected.token_lengths.tolist()):
        assert tokens[clip] == expected.tokens[clip, :count].tolist()
        assert frames[clip] == expected.frame_indices[clip, :count].tolist()
        if is_confident:
            whole = ctc_confidence(log_probs, lengths, expected.frame_indices, expected.token_lengths, confidence)
            assert confidences[clip] == pytest.approx(whole[clip, :count].tolist(), abs=1e-6)


def test_scores_of_phrases_choose_the_token_by_nemos_rule():
    """Against a loop, in one call and cut anywhere, with a tree for each clip and one for all."""
    generator = torch.Generator().manual_seed(1)
    num_changed = 0
    for case in range(60):
        batch_size, num_frames = 1 + case % 4, 1 + case % 17
        logits = torch.randn(batch_size, num_frames, BLANK + 1, generator=generator).mul(2)
        logits[..., BLANK] += case % 3
        # Neighbours alike, so that tokens go on.
        log_probs = logits.repeat_interleave(2, dim=1).log_softmax(dim=-1)
        lengths = torch.randint(0, 2 * num_frames + 1, (batch_size,), generator=generator)
        pairs = [random_tree(case + clip, BLANK) for clip in range(batch_size)]
        if case % 2:
            pairs = pairs[:1] * batch_size
        scorer = TokenScorer([pairs[0][0] if case % 2 else [tree for tree, _ in pairs]])
        options = {"confidence": ConfidenceOptions(), "scorer": scorer}
        whole, state = ctc_decode_frames(log_probs, lengths, BLANK, PADDING, **options)
        cut = num_frames
        first_lengths = lengths.clamp(max=cut)
        first, middle = ctc_decode_frames(log_probs[:, :cut], first_lengths, BLANK, PADDING, **options)
        middle = CTCState.concatenate([middle.select([clip]) for clip in range(batch_size)])
        rest_lengths = lengths - first_lengths
        rest, last = ctc_decode_frames(log_probs[:, cut:], rest_lengths, BLANK, PADDING, **options, state=middle)
        assert torch.equal(last.scorer_states, state.scorer_states)
        for clip, (_, truth) in enumerate(pairs):
            rows = log_probs[clip, : int(lengths[clip])].tolist()
            labels = choose_ctc_by_loop(rows, BLANK, lambda text, truth=truth: truth.scores(text, BLANK))
            expected = [
                (token, place)
                for place, token in enumerate(labels)
                if token != BLANK and labels[:place][-1:] != [token]
            ]
            count = int(whole.token_lengths[clip])
            found = list(
                zip(whole.tokens[clip, :count].tolist(), whole.frame_indices[clip, :count].tolist(), strict=True)
            )
            assert found == expected
            num_changed += sum(int(log_probs[clip, frame].argmax()) != token for token, frame in expected)
            joined = [
                *first.tokens[clip, : first.token_lengths[clip]].tolist(),
                *rest.tokens[clip, : rest.token_lengths[clip]].tolist(),
            ]
            assert joined == [token for token, _ in expected]
    assert num_changed > 40
