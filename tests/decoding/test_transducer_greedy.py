"""Greedy transducer decoding with scripted networks, against a plain loop over single clips."""

from __future__ import annotations

import random

import pytest
import torch
from scripted_transducer import BLANK, DURATIONS, STRATEGIES, ScriptedTransducer, emissions_of
from tolerances import DECODING

from transformers_fastconformer.configuration_fastconformer import DECODING_STRATEGIES
from transformers_fastconformer.decoding.state import TransducerState


@pytest.mark.parametrize(("name", "strategy"), STRATEGIES)
def test_equals_the_loop_on_random_batches(name, strategy):
    generator = torch.Generator().manual_seed(1)
    num_tokens = num_stuck = 0
    for case in range(80):
        networks = ScriptedTransducer(case, DURATIONS[name], blank_bonus=[-3.0, 0.0, 1.0, 3.0][case % 4])
        max_symbols = [1, 2, 3, 10][case // 4 % 4]
        batch_size = 1 + case % 5
        lengths = torch.randint(0, 12, (batch_size,), generator=generator)
        if case % 3 == 0:
            lengths[0] = 0  # an empty clip
        if case % 7 == 0:
            lengths[-1] = 40  # one much longer than the others
        rows = torch.randint(0, 64, (batch_size, int(lengths.max()) + case % 2), generator=generator)
        found, _ = networks.decode(rows, lengths, max_symbols_per_step=max_symbols, strategy=strategy)
        assert (found.durations is None) == (DURATIONS[name] is None)
        for clip in range(batch_size):
            expected = networks.decode_by_loop(rows[clip, : int(lengths[clip])].tolist(), max_symbols, strategy)
            assert emissions_of(found, clip) == [emission[:3] for emission in expected]
            log_probs = found.log_probs[clip, : len(expected)].tolist()
            assert log_probs == pytest.approx([emission.log_prob for emission in expected], abs=DECODING)
            num_tokens += len(expected)
            frames = [emission.frame for emission in expected]
            num_stuck += any(frames.count(frame) == max_symbols for frame in frames)
    assert num_tokens > 300
    assert num_stuck > 10 or name == "tdt_without_0"


@pytest.mark.parametrize("name", DURATIONS)
def test_the_strategies_differ_where_a_full_frame_ends_in_a_duration(name):
    """With one token a frame, every frame with a duration."""
    rows = torch.randint(0, 64, (8, 40), generator=torch.Generator().manual_seed(0))
    lengths = torch.full((8,), 40)
    networks = ScriptedTransducer(1, DURATIONS[name])
    found = {
        strategy: networks.decode(rows, lengths, max_symbols_per_step=1, strategy=strategy)[0]
        for strategy in DECODING_STRATEGIES
    }
    plain, batched = (emissions_of(found[strategy], 0) for strategy in ("greedy", "greedy_batch"))
    assert (plain == batched) == (name in ("rnnt", "tdt_only_0"))


@pytest.mark.parametrize(("name", "strategy"), STRATEGIES)
def test_chunk_by_chunk_equals_at_once(name, strategy):
    """Chunks of any sizes, none and other ones for each clip included; durations reach over the seams."""
    picker = random.Random(2)
    num_ahead = num_unfinished = 0
    for case in range(60):
        networks = ScriptedTransducer(case, DURATIONS[name], blank_bonus=[-3.0, 0.0, 1.0][case % 3])
        max_symbols = [1, 3, 10][case // 3 % 3]
        batch_size = 1 + case % 3
        lengths = torch.tensor([picker.randrange(0, 25) for _ in range(batch_size)])
        rows = torch.tensor([[picker.randrange(64) for _ in range(25)] for _ in range(batch_size)])
        options = {"max_symbols_per_step": max_symbols, "strategy": strategy}
        whole, final_state = networks.decode(rows, lengths, **options)

        state: TransducerState | None = None
        starts = [0] * batch_size
        joined: list[list[tuple[int, int, int]]] = [[] for _ in range(batch_size)]
        while any(start < int(length) for start, length in zip(starts, lengths, strict=True)):
            counts = [
                min(picker.choice([0, 1, 1, 2, 5, 9]), int(length) - start)
                for start, length in zip(starts, lengths, strict=True)
            ]
            chunk = torch.zeros(batch_size, max(counts), dtype=torch.int64)
            for clip, (start, count) in enumerate(zip(starts, counts, strict=True)):
                chunk[clip, :count] = rows[clip, start : start + count]
            found, state = networks.decode(chunk, torch.tensor(counts), state=state, **options)
            num_ahead += int((state.frames_ahead > 0).sum())
            for clip in range(batch_size):
                joined[clip] += [(token, frame + starts[clip], d) for token, frame, d in emissions_of(found, clip)]
                starts[clip] += counts[clip]
                num_unfinished += starts[clip] < int(lengths[clip])
        for clip in range(batch_size):
            assert joined[clip] == emissions_of(whole, clip)
        if state is not None:
            assert torch.equal(state.frames_ahead, final_state.frames_ahead)
            assert torch.equal(state.predictor_output, final_state.predictor_output)
            for ours, theirs in zip(state.predictor_state, final_state.predictor_state, strict=True):
                assert torch.equal(ours, theirs)
    assert num_unfinished > 50
    assert (num_ahead > 10) == (max(DURATIONS[name] or [0]) > 1)


def test_the_state_passed_in_is_not_changed():
    networks = ScriptedTransducer(3, [0, 1, 2, 3, 4])
    rows, lengths = torch.arange(24).reshape(2, 12), torch.tensor([12, 7])
    _, state = networks.decode(rows, lengths)
    parts = (*state.predictor_state, state.predictor_output, state.frames_ahead)
    before = [tensor.clone() for tensor in parts]
    first, _ = networks.decode(rows + 24, lengths, state=state)
    second, _ = networks.decode(rows + 24, lengths, state=state)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(before, parts, strict=True))
    assert torch.equal(first.tokens, second.tokens)


def test_a_clip_that_has_ended_is_not_asked_again():
    networks = ScriptedTransducer(0, None, blank_bonus=100.0)  # blanks alone: a step a frame
    networks.decode(torch.zeros(3, 9, dtype=torch.int64), torch.tensor([9, 2, 0]))
    assert networks.clips_asked == [2] * 2 + [1] * 7


def test_zero_duration_blank_goes_on_by_one_frame():
    networks = ScriptedTransducer(0, [0, 4], blank_bonus=100.0)
    networks.table[..., BLANK + 1] = 100.0
    found, state = networks.decode(torch.zeros(1, 5, dtype=torch.int64), torch.tensor([5]))
    assert found.tokens.shape == (1, 0)
    assert networks.clips_asked == [1] * 5
    assert state.frames_ahead.tolist() == [0]


def test_tokens_on_a_frame_are_limited():
    networks = ScriptedTransducer(0, None)
    networks.table[...] = torch.eye(BLANK + 1)[2]  # always token 2, never a blank
    found, _ = networks.decode(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 1]), max_symbols_per_step=4)
    assert found.token_lengths.tolist() == [12, 4]
    assert found.frame_indices[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_no_limit_on_the_tokens_of_a_frame():
    networks = ScriptedTransducer(5, [0, 1], blank_bonus=1.0)
    rows = torch.arange(8)[None]
    found, _ = networks.decode(rows, torch.tensor([8]), max_symbols_per_step=None)
    assert emissions_of(found, 0) == [e[:3] for e in networks.decode_by_loop(rows[0].tolist(), None)]
    assert max(found.frame_indices[0].bincount()) > 1


def test_a_call_ends_the_frames_it_decodes():
    """A frame on which the limit is reached is left within the call, so the next one starts with a count of zero."""
    networks = ScriptedTransducer(0, None)
    networks.table[...] = torch.eye(BLANK + 1)[2]
    rows = torch.zeros(1, 2, dtype=torch.int64)
    found, state = networks.decode(rows, torch.tensor([2]), max_symbols_per_step=3)
    assert state.frames_ahead.tolist() == [0]
    again, _ = networks.decode(rows, torch.tensor([2]), max_symbols_per_step=3, state=state)
    assert found.frame_indices.tolist() == again.frame_indices.tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("durations", [None, [0, 1, 2]])
def test_empty_batch_and_empty_clips(durations):
    networks = ScriptedTransducer(0, durations)
    found, state = networks.decode(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert found.tokens.shape == (0, 0)
    assert state.predictor_output.shape == (0, 1)
    found, _ = networks.decode(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]))
    assert found.tokens.shape == (2, 0)
    assert found.tokens.dtype == torch.int64
    assert found.token_lengths.tolist() == [0, 0]
