"""Recordings in chunks: any cutting of the features gives the same, next to others or not."""

from __future__ import annotations

import random

import pytest
import torch
from diarizers import build_diarizer, make_features

from transformers_fastconformer import SpeakerStreamOptions, SpeakerStreams


def hear(streams: SpeakerStreams, features: torch.Tensor, sizes: list[int], name: int = 0) -> torch.Tensor:
    parts = [streams.push({name: piece}, {})[name] for piece in features.split(sizes)]
    parts.append(streams.push({name: features[:0]}, {name: True})[name])
    return torch.cat(parts)


@pytest.mark.parametrize("count", [1, 7, 63, 64, 65, 500])
def test_any_cutting_gives_the_same(count: int) -> None:
    model, features = build_diarizer(), make_features(count)
    expected = hear(SpeakerStreams(model), features, [count])
    assert len(expected) == int(model.config.subsampling.count_rows(torch.tensor(count)))
    generator = random.Random(count)
    for _ in range(3):
        sizes = []
        while sum(sizes) < count:
            sizes.append(min(generator.randint(1, 90), count - sum(sizes)))
        torch.testing.assert_close(hear(SpeakerStreams(model), features, sizes), expected, rtol=1e-4, atol=1e-5)


def test_recordings_that_begin_and_end_apart_change_nothing() -> None:
    model = build_diarizer()
    one, other = make_features(420, 2), make_features(333, 3)
    streams = SpeakerStreams(model)
    found: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    for place in range(0, 480, 20):
        pushed = {1: one[place : place + 20]} if place < len(one) else {}
        if place >= 60 and place - 60 < len(other):
            pushed[2] = other[place - 60 : place - 40]
        ends = {1: place + 20 >= len(one), 2: place - 40 >= len(other)}
        for name, part in streams.push(pushed, {name: ends[name] for name in pushed}).items():
            found[name].append(part)
    for name, features in ((1, one), (2, other)):
        alone = hear(SpeakerStreams(model), features, [len(features)])
        torch.testing.assert_close(torch.cat(found[name]), alone, rtol=1e-4, atol=1e-5)


def test_later_audio_changes_nothing_and_memory_stays() -> None:
    model, features = build_diarizer(), make_features(3000)
    streams = SpeakerStreams(model)
    early = streams.push({0: features[:700]}, {})[0]
    whole = hear(SpeakerStreams(model), features, [3000])
    torch.testing.assert_close(early, whole[: len(early)], rtol=1e-4, atol=1e-5)
    sizes = set()
    for piece in features[700:].split(48):
        streams.push({0: piece}, {})
        state = streams.state_of(0)
        sizes.add(state.cache.shape[0])
        assert state.queue.shape[0] <= 8
    assert sizes == {15}


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="cache_frames=5 is not supported"):
        SpeakerStreams(build_diarizer(), SpeakerStreamOptions(cache_frames=5))
