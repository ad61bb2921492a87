"""Beam search of CTC: against all paths there are, against greedy decoding, and clip by clip."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from beam_enumeration import enumerate_ctc
from phrase_cases import random_tree

from transformers_fastconformer.decoding import beam_scorer
from transformers_fastconformer.decoding.beam_options import BeamOptions
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.ctc import ctc_decode_frames
from transformers_fastconformer.decoding.ctc_beam import search_ctc_paths
from transformers_fastconformer.decoding.token_automaton import TokenAutomaton
from transformers_fastconformer.decoding.token_scorer import TokenScorer

BLANK, PADDING = 3, 7
UNLIMITED = 500


def random_log_probs(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, BLANK + 1, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=-1)


def decode(log_probs: torch.Tensor, lengths: list[int], **options):
    return ctc_decode_frames(log_probs, torch.tensor(lengths), BLANK, PADDING, **options)


def tokens_of(found, row: int) -> list[int]:
    return found.tokens[row, : int(found.token_lengths[row])].tolist()


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("is_scored", [False, True])
def test_finds_all_texts(beta: float, is_scored: bool) -> None:
    for seed in range(3):
        log_probs = random_log_probs(seed, 1, 4)
        tree = random_tree(seed, BLANK, strength=0.5)[0] if is_scored else TokenAutomaton.empty(BLANK)

        @cache
        def state_after(tokens: tuple[int, ...], tree=tree) -> torch.Tensor:
            if not tokens:
                return tree.start_states[:1].long()
            return tree.step(state_after(tokens[:-1]), torch.tensor(tokens[-1:]))

        expected = enumerate_ctc(
            log_probs[0],
            BLANK,
            beta,
            lambda tokens, token, tree=tree, after=state_after: float(tree.scores(after(tokens))[0, token]),
        )
        beam = BeamOptions(num_beams=UNLIMITED, num_best=UNLIMITED, beam_beta=beta, beam_threshold=1e9)
        scorer = TokenScorer([tree]) if is_scored else None
        found, _ = decode(log_probs, [4], beam=beam, scorer=scorer)
        is_text = (found.totals > -torch.inf).nonzero()[:, 0].tolist()
        ours = sorted((tokens_of(found, row), float(found.totals[row])) for row in is_text)
        theirs = sorted((list(tokens), total) for (tokens, _), total in expected.items())
        assert 20 < len(theirs) < UNLIMITED
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        assert [total for _, total in ours] == pytest.approx([total for _, total in theirs], abs=1e-4)
        assert tokens_of(found, 0) == list(max(expected.items(), key=lambda item: item[1])[0][0])


def test_far_texts_are_dropped() -> None:
    log_probs = random_log_probs(1, 1, 4)
    beam = BeamOptions(num_beams=50, num_best=50, beam_threshold=2.0)
    found, _ = decode(log_probs, [4], beam=beam)
    every, _ = decode(log_probs, [4], beam=BeamOptions(num_beams=50, num_best=50))
    kept = found.totals[found.totals > -torch.inf]
    assert 1 < len(kept) < int((every.totals > -torch.inf).sum())
    assert float(kept[0] - kept[-1]) < 2.0
    is_missing = found.totals == -torch.inf
    assert (found.token_lengths[is_missing] == 0).all()


@pytest.mark.parametrize("confidence", [None, ConfidenceOptions(method="max_prob")])
def test_without_scores_the_best_path_is_the_greedy_one(confidence: ConfidenceOptions | None) -> None:
    log_probs = random_log_probs(2, 5, 30)
    lengths = [30, 0, 7, 1, 29]
    found, state = decode(log_probs, lengths, beam=BeamOptions(num_beams=4), confidence=confidence)
    greedy, greedy_state = decode(log_probs, lengths, confidence=confidence)
    for name in ("tokens", "token_lengths", "frame_indices", "log_probs", "scores"):
        ours, theirs = getattr(found, name), getattr(greedy, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert torch.equal(ours, theirs)
    for ours, theirs in zip(state.last_frames, greedy_state.last_frames, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_clips_do_not_see_one_another(num_beams: int) -> None:
    log_probs = random_log_probs(3, 4, 20)
    lengths = [20, 5, 0, 13]
    beam = BeamOptions(num_beams=num_beams, num_best=num_beams, beam_beta=0.3)
    options = {"beam": beam, "scorer": TokenScorer([random_tree(2, BLANK)[0]])}
    together, state = decode(log_probs, lengths, **options)
    for clip, length in enumerate(lengths):
        alone, own_state = decode(log_probs[clip : clip + 1, :length], [length], **options)
        for text in range(num_beams):
            assert tokens_of(together, clip * num_beams + text) == tokens_of(alone, text)
        torch.testing.assert_close(together.totals[clip * num_beams :][:num_beams], alone.totals)
        assert torch.equal(state.scorer_states[clip : clip + 1], own_state.scorer_states)


def test_goes_on_after_the_best_text() -> None:
    """With one beam two calls give what one gives, a token on both sides of the border included."""
    crossing = 0
    for seed in range(6):
        log_probs = random_log_probs(seed, 2, 12)
        options = {"beam": BeamOptions(num_beams=1), "scorer": TokenScorer([random_tree(1, BLANK)[0]])}
        whole, whole_state = decode(log_probs, [12, 9], **options)
        left, state = decode(log_probs[:, :6], [6, 6], **options)
        right, end = decode(log_probs[:, 6:], [6, 3], state=state, **options)
        for clip in range(2):
            assert tokens_of(left, clip) + tokens_of(right, clip) == tokens_of(whole, clip)
            crossing += bool(state.last_labels[clip][-1] != BLANK)
        assert torch.equal(end.scorer_states, whole_state.scorer_states)
    assert crossing > 0


def test_paths_have_the_scores_that_are_returned() -> None:
    log_probs = random_log_probs(4, 2, 10)
    beam = BeamOptions(num_beams=5, num_best=5)
    lengths = torch.tensor([10, 6])
    paths, totals, states = search_ctc_paths(log_probs, lengths, BLANK, beam, torch.full((2,), BLANK))
    assert states is None
    for clip, length in enumerate(lengths.tolist()):
        of_paths = log_probs[clip, :length].gather(1, paths[clip, :, :length].T).sum(dim=0)
        torch.testing.assert_close(of_paths, totals[clip])


def test_the_form_for_other_devices_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs, lengths = random_log_probs(5, 3, 15), [15, 4, 9]
    beam = BeamOptions(num_beams=4, num_best=4, beam_beta=0.2)
    options = {"beam": beam, "scorer": TokenScorer([random_tree(2, BLANK)[0]])}
    expected, expected_state = decode(log_probs, lengths, **options)
    monkeypatch.setattr(beam_scorer, "is_on_host", lambda device: False)
    found, state = decode(log_probs, lengths, **options)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.totals, expected.totals)
    assert torch.equal(state.scorer_states, expected_state.scorer_states)
