"""Ends of utterances by frames without tokens, next to NeMo's rule for the tokens and frames so far."""

from __future__ import annotations

import random

import pytest
import torch

from transformers_fastconformer.streaming.endpointing import BlankEndpointing, BlankState, EndpointingOptions

pytestmark = pytest.mark.nemo

NUM_FRAMES = 60


@pytest.mark.parametrize("blank_ms", [80, 400, 801])
@pytest.mark.parametrize("residue_frames", [0, 2])
def test_an_end_is_found_in_the_same_frame(blank_ms: int, residue_frames: int) -> None:
    from nemo.collections.asr.inference.streaming.endpointing.greedy.greedy_endpointing import GreedyEndpointing

    theirs = GreedyEndpointing([], 80, stop_history_eou=blank_ms, residue_tokens_at_end=residue_frames)
    options = EndpointingOptions(kinds=("blanks",), blank_ms=blank_ms, residue_frames=residue_frames)
    ours = BlankEndpointing(options, 0.08)
    rng = random.Random(blank_ms)
    num_ends = 0
    for _ in range(50):
        frames = sorted(rng.sample(range(30), rng.randrange(1, 20)))
        state = BlankState()
        for num_frames in range(1, NUM_FRAMES):
            new = [frame for frame in frames if frame == num_frames - 1]
            events, state = ours.advance(state, [1] * len(new), new, num_frames)
            so_far = torch.tensor([frame for frame in frames if frame < num_frames])
            is_end, place = theirs.detect_eou_given_timestamps(so_far, torch.ones_like(so_far), num_frames)
            assert is_end == bool(events)
            if is_end:
                # NeMo puts the end into the middle of the blanks that it waits for.
                assert round(events[0].seconds / 0.08) == place - theirs.stop_history_eou // 2
                num_ends += 1
                break
    assert num_ends == 50
