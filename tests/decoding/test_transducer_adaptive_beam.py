"""Adaptive expansion: against all texts there are, clip by clip, and call by call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from beam_enumeration import enumerate_transducer
from phrase_cases import random_tree
from scripted_transducer import BLANK, DURATIONS, PADDING, ScriptedTransducer, emissions_of
from transducer_cases import random_cases

from transformers_fastconformer.decoding.beam_options import BeamOptions
from transformers_fastconformer.decoding.token_scorer import TokenScorer
from transformers_fastconformer.decoding.transducer_adaptive_beam import transducer_adaptive_beam_decode


def search(networks: ScriptedTransducer, rows: torch.Tensor, lengths: torch.Tensor, **options: Any):
    options = {"strategy": "maes_batch", **options}
    scorer, score, state = (options.pop(name, None) for name in ("scorer", "score", "state"))
    return transducer_adaptive_beam_decode(
        rows[..., None].float(),
        lengths,
        networks.predict,
        networks.joint,
        BLANK,
        PADDING,
        BeamOptions(**options),
        state,
        score,
        scorer,
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_finds_all_texts_of_a_frame(steps: int) -> None:
    """With a beam for all texts and no distance that is too far, totals are those of all alignments of a frame."""
    for seed in range(4):
        networks = ScriptedTransducer(seed, DURATIONS["rnnt"])
        rows = torch.tensor([[10 * seed]])
        options = {"num_beams": 40, "num_best": 40, "normalize_length": False, "maes_num_steps": steps}
        found, _ = search(networks, rows, torch.tensor([1]), maes_expansion_gamma=100.0, **options)
        expected = enumerate_transducer(
            lambda frame, tokens, networks=networks, rows=rows: networks.logits_of(int(rows[0, frame]), tokens),
            1,
            BLANK,
            None,
            steps,
        )
        assert found.totals is not None
        ours = {
            tuple(found.tokens[row, : found.token_lengths[row]].tolist()): float(found.totals[row])
            for row in (found.totals > -torch.inf).nonzero()[:, 0].tolist()
        }
        theirs = {tokens: total for (tokens, _), total in expected.items()}
        assert set(ours) == set(theirs)
        assert len(theirs) == sum(BLANK**count for count in range(steps + 1))
        if steps == 1:  # with more, some texts have no blank, as in NeMo
            assert ours == pytest.approx(theirs, abs=1e-4)


def test_prefixes_are_added() -> None:
    """A text that another of the beam becomes on a frame has the probability of both ways."""
    networks = ScriptedTransducer(3, DURATIONS["rnnt"], blank_bonus=1.0)
    rows = torch.tensor([[5, 17]])
    options = {"num_beams": 5, "num_best": 5, "normalize_length": False, "maes_num_steps": 1}
    found, _ = search(networks, rows, torch.tensor([2]), maes_expansion_gamma=100.0, **options)
    expected = enumerate_transducer(
        lambda frame, tokens: networks.logits_of(int(rows[0, frame]), tokens), 2, BLANK, None, 1
    )
    assert found.totals is not None
    is_checked = False
    for row, total in enumerate(found.totals.tolist()):
        tokens = tuple(found.tokens[row, : found.token_lengths[row]].tolist())
        if len(tokens) == 1:
            assert total == pytest.approx(expected[tokens, 2], abs=1e-4)
            is_checked = True
    assert is_checked


@pytest.mark.parametrize("num_beams", [1, 3])
def test_clips_do_not_see_one_another(num_beams: int) -> None:
    count = 0
    for networks, rows, lengths, _ in random_cases(None, 12):
        options = {"num_beams": num_beams, "num_best": num_beams, "score": lambda logits: logits[:, 0]}
        options["scorer"] = TokenScorer([random_tree(1, BLANK)[0]])
        together, state = search(networks, rows, lengths, **options)
        assert not state.frames_ahead.any()
        for clip, length in enumerate(lengths.tolist()):
            alone, own_state = search(networks, rows[clip : clip + 1, :length], lengths[clip : clip + 1], **options)
            for text in range(num_beams):
                emitted = emissions_of(together, clip * num_beams + text)
                assert emitted == emissions_of(alone, text)
                count += len(emitted)
            torch.testing.assert_close(together.totals[clip * num_beams :][:num_beams], alone.totals)
            assert torch.equal(state.scorer_states[clip : clip + 1], own_state.scorer_states)
            assert torch.equal(state.predictor_output[clip : clip + 1], own_state.predictor_output)
    assert count > 100


def test_goes_on_after_the_best_text() -> None:
    """With one beam two calls give what one gives, and each token has its frame, probability and confidence."""
    count = 0
    for networks, rows, lengths, _ in random_cases(None, 12):
        options = {"num_beams": 1, "score": lambda logits: logits[:, 0]}
        whole, _ = search(networks, rows, lengths, **options)
        first = lengths.clamp(max=5)
        left, state = search(networks, rows[:, :5], first, **options)
        right, _ = search(networks, rows[:, 5:], lengths - first, state=state, **options)
        for clip in range(len(lengths)):
            shifted = [(token, frame + int(first[clip]), value) for token, frame, value in emissions_of(right, clip)]
            emitted = emissions_of(whole, clip)
            assert emissions_of(left, clip) + shifted == emitted
            tokens: tuple[int, ...] = ()
            for place, (token, frame, _) in enumerate(emitted):
                logits = networks.logits_of(int(rows[clip, frame]), tokens)
                assert float(whole.scores[clip, place]) == pytest.approx(logits[0])
                plain = torch.tensor(logits).log_softmax(dim=0)
                assert float(whole.log_probs[clip, place]) == pytest.approx(float(plain[token]), abs=1e-5)
                tokens = (*tokens, token)
                count += 1
    assert count > 100
