"""A stream of an engine: its waiting features are given in order, and a live source is told from a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer import FastConformerFeatureExtractor, StreamOptions
from transformers_fastconformer.audio.feature_stream import FeatureStream
from transformers_fastconformer.streaming.live_stream import LiveStream


@pytest.fixture
def stream() -> LiveStream:
    rules: Any = None
    return LiveStream(0, StreamOptions(), rules, FeatureStream(FastConformerFeatureExtractor(normalize=None).log_mel))


def test_waiting_features_are_given_once_and_in_order(stream: LiveStream) -> None:
    features = torch.arange(30.0).reshape(10, 3)
    stream.pending = list(features.split([1, 4, 0, 5]))
    assert stream.count_pending() == 10
    given = [stream.take(size) for size in (2, 3, 4)]
    assert stream.count_pending() == 1
    given.append(stream.take(100))
    assert torch.equal(torch.cat(given), features)
    assert stream.count_pending() == 0


def test_a_small_rest_does_not_keep_the_memory_of_all(stream: LiveStream) -> None:
    stream.pending = [torch.zeros(1000, 3)]
    stream.take(990)
    (rest,) = stream.pending
    assert rest.untyped_storage().nbytes() == rest.nbytes


def test_a_source_that_is_ahead_of_the_clock_is_not_live(stream: LiveStream) -> None:
    assert stream.is_live(50.0)
    stream.clock.opened_seconds = 50.0
    stream.features.push(np.zeros(5 * 16000, dtype=np.float32))
    assert not stream.is_live(53.9)
    assert stream.is_live(54.1)
