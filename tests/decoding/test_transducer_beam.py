"""Beam search of transducers: against all texts there are, against greedy decoding, and clip by clip."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from beam_enumeration import enumerate_transducer
from phrase_cases import random_tree
from scripted_transducer import BLANK, DURATIONS, ScriptedTransducer, emissions_of
from transducer_cases import random_cases

from transformers_fastconformer.decoding import beam_scorer, transducer_beam
from transformers_fastconformer.decoding.beam_options import BeamOptions
from transformers_fastconformer.decoding.hypotheses import Hypotheses
from transformers_fastconformer.decoding.token_automaton import TokenAutomaton
from transformers_fastconformer.decoding.token_scorer import TokenScorer
from transformers_fastconformer.decoding.transducer_beam import LEAST_REST, transducer_beam_decode
from transformers_fastconformer.decoding.transducer_greedy import transducer_greedy_decode

# More texts than there are.
UNLIMITED = 120


def search(networks: ScriptedTransducer, rows: torch.Tensor, lengths: torch.Tensor, **options):
    return networks.decode(rows, lengths, transducer_beam_decode, **options)


def score_of_text(tree: TokenAutomaton, tokens: tuple[int, ...]) -> list[float]:
    """Scores of all tokens after a text, from a tree that has its own tests."""
    state = tree.start_states[:1].long()
    for token in tokens:
        state = tree.step(state, torch.tensor([token]))
    return tree.scores(state)[0].tolist()


def fuse_by_hand(tree: TokenAutomaton, mode: str):
    score = cache(lambda tokens: score_of_text(tree, tokens))

    def fuse(log_probs: list[float], tokens: tuple[int, ...]) -> list[float]:
        scores = score(tokens)
        blank, rest = log_probs[BLANK], 0.0
        if mode == "lm_weighted_full":
            rest = tree.weight * math.log1p(-min(math.exp(blank), 1.0 - LEAST_REST))
            blank *= 1.0 + tree.weight
        return [*(value + score + rest for value, score in zip(log_probs[:BLANK], scores, strict=True)), blank]

    return fuse


@pytest.mark.parametrize("name", [name for name in DURATIONS if name != "tdt_only_0"])
@pytest.mark.parametrize("mode", [None, "lm_weighted_full", "no_score"])
def test_finds_all_texts(name: str, mode: str | None) -> None:
    """With a beam for all texts, the totals are those of all alignments, and the best text is the best there is."""
    durations = DURATIONS[name]
    for seed in range(3):
        networks = ScriptedTransducer(seed, durations)
        num_frames, limit = 1, 2
        rows = torch.arange(10 * seed, 10 * seed + num_frames)[None]
        tree = None if mode is None else random_tree(seed, BLANK, strength=0.4)[0]
        beam = BeamOptions(
            num_beams=UNLIMITED,
            num_best=UNLIMITED,
            normalize_length=False,
            blank_lm_score_mode=mode or "lm_weighted_full",
        )
        options = {} if tree is None else {"scorer": TokenScorer([tree])}
        lengths = torch.tensor([num_frames])
        found, state = search(networks, rows, lengths, beam=beam, max_symbols_per_step=limit, **options)
        expected = enumerate_transducer(
            lambda frame, tokens, networks=networks, rows=rows: networks.logits_of(int(rows[0, frame]), tokens),
            num_frames,
            BLANK,
            durations,
            limit,
            *(() if tree is None else (fuse_by_hand(tree, mode or ""),)),
        )
        assert 10 < len(expected) < UNLIMITED
        assert found.totals is not None
        is_text = found.totals > -torch.inf
        rows_found = zip(found.tokens.tolist(), found.token_lengths.tolist(), strict=True)
        texts = [tuple(row[:count]) for row, count in rows_found]
        ours = sorted((texts[row], round(float(found.totals[row]), 3)) for row in is_text.nonzero()[:, 0].tolist())
        theirs = sorted((tokens, round(total, 3)) for (tokens, _), total in expected.items())
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        torch.testing.assert_close(
            torch.tensor([total for _, total in ours]), torch.tensor([total for _, total in theirs]), atol=2e-3, rtol=0
        )
        (best, end), _ = max(expected.items(), key=lambda item: item[1])
        assert texts[0] == best
        assert int(state.frames_ahead) == end - num_frames


@pytest.mark.parametrize("name", ["rnnt", "tdt", "tdt_without_0"])
def test_finds_the_best_text(name: str) -> None:
    """
    On several frames, with a limit of tokens on a frame that is hardly ever met: equal texts become one whatever
    their last frames have already seen, as in NeMo.
    """
    for seed in range(4):
        networks = ScriptedTransducer(seed, DURATIONS[name], blank_bonus=3.0)
        rows = torch.arange(10 * seed, 10 * seed + 3)[None]
        beam = BeamOptions(num_beams=UNLIMITED, normalize_length=False)
        found, _ = search(networks, rows, torch.tensor([3]), beam=beam, max_symbols_per_step=2)
        expected = enumerate_transducer(
            lambda frame, tokens, networks=networks, rows=rows: networks.logits_of(int(rows[0, frame]), tokens),
            3,
            BLANK,
            DURATIONS[name],
            2,
        )
        (best, _), total = max(expected.items(), key=lambda item: item[1])
        assert tuple(found.tokens[0].tolist()) == best
        assert found.totals is not None
        assert float(found.totals[0]) == pytest.approx(total, abs=2e-2)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_clips_do_not_see_one_another(name: str, num_beams: int) -> None:
    beam = BeamOptions(num_beams=num_beams, num_best=num_beams)
    for networks, rows, lengths, limit in random_cases(DURATIONS[name], 12):
        options = {"beam": beam, "max_symbols_per_step": limit, "scorer": TokenScorer([random_tree(1, BLANK)[0]])}
        together, state = search(networks, rows, lengths, **options)
        for clip, length in enumerate(lengths.tolist()):
            alone, own_state = search(networks, rows[clip : clip + 1, :length], lengths[clip : clip + 1], **options)
            for text in range(num_beams):
                assert emissions_of(together, clip * num_beams + text) == emissions_of(alone, text)
            torch.testing.assert_close(together.totals[clip * num_beams :][:num_beams], alone.totals)
            assert torch.equal(state.frames_ahead[clip : clip + 1], own_state.frames_ahead)
            assert torch.equal(state.scorer_states[clip : clip + 1], own_state.scorer_states)


def test_one_beam_is_greedy() -> None:
    count = 0
    for networks, rows, lengths, limit in random_cases(None, 20):
        found, state = search(networks, rows, lengths, beam=BeamOptions(num_beams=1), max_symbols_per_step=limit)
        greedy, greedy_state = networks.decode(rows, lengths, transducer_greedy_decode, max_symbols_per_step=limit)
        _assert_same_tokens(found, greedy)
        assert torch.equal(state.predictor_output, greedy_state.predictor_output)
        count += int(greedy.token_lengths.sum())
    assert count > 100


def _assert_same_tokens(found: Hypotheses, expected: Hypotheses) -> None:
    for name in ("tokens", "token_lengths", "frame_indices"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["rnnt", "tdt"])
def test_goes_on_after_the_best_text(name: str) -> None:
    """The state is that after the best text: with one beam two calls give what one gives."""
    beam = BeamOptions(num_beams=1)
    for networks, rows, lengths, _ in random_cases(DURATIONS[name], 12):
        options = {"beam": beam, "scorer": TokenScorer([random_tree(1, BLANK)[0]])}
        whole, whole_state = search(networks, rows, lengths, **options)
        first = lengths.clamp(max=5)
        left, state = search(networks, rows[:, :5], first, **options)
        right, end = search(networks, rows[:, 5:], lengths - first, state=state, **options)
        for clip in range(len(lengths)):
            shifted = [(token, frame + int(first[clip]), value) for token, frame, value in emissions_of(right, clip)]
            assert emissions_of(left, clip) + shifted == emissions_of(whole, clip)
        assert torch.equal(end.frames_ahead, whole_state.frames_ahead)
        assert torch.equal(end.scorer_states, whole_state.scorer_states)


def test_scores_of_tokens() -> None:
    """Confidences belong to the tokens of the text that is read, not to those of another in the beam."""
    for networks, rows, lengths, _ in random_cases(DURATIONS["tdt"], 12):
        found, _ = search(networks, rows, lengths, beam=BeamOptions(num_beams=4), score=lambda logits: logits[:, 0])
        assert found.scores is not None
        for clip in range(len(lengths)):
            tokens: tuple[int, ...] = ()
            for place, (token, frame, _) in enumerate(emissions_of(found, clip)):
                logits = networks.logits_of(int(rows[clip, frame]), tokens)
                assert float(found.scores[clip, place]) == pytest.approx(logits[0])
                plain = torch.tensor(logits[: BLANK + 1]).log_softmax(dim=0)
                assert float(found.log_probs[clip, place]) == pytest.approx(float(plain[token]), abs=1e-5)
                tokens = (*tokens, token)


@pytest.mark.parametrize("name", ["rnnt", "tdt"])
def test_the_form_for_other_devices_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There all texts are computed in every step, those that have ended too."""
    count = 0
    for networks, rows, lengths, limit in random_cases(DURATIONS[name], 12):
        options = {"beam": BeamOptions(num_beams=3, num_best=3), "max_symbols_per_step": limit}
        options |= {"scorer": TokenScorer([random_tree(1, BLANK)[0]]), "score": lambda logits: logits[:, 0]}
        expected, expected_state = search(networks, rows, lengths, **options)
        for module in (beam_scorer, transducer_beam):
            monkeypatch.setattr(module, "is_on_host", lambda device: False)
        found, state = search(networks, rows, lengths, **options)
        monkeypatch.undo()
        for ours, theirs in zip(found, expected, strict=True):
            if theirs is not None:
                torch.testing.assert_close(ours, theirs)
        assert torch.equal(state.predictor_output, expected_state.predictor_output)
        assert torch.equal(state.scorer_states, expected_state.scorer_states)
        count += int(found.token_lengths.sum())
    assert count > 100
