"""A step of live streams, before it becomes a graph, next to the model's own cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transformers_fastconformer import load_model
from transformers_fastconformer.export.streaming_graphs import (
    StreamSizes,
    cut_windows,
    encode_windows,
    is_streaming,
    start_caches,
    streaming_part,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("demo-streaming", device="cpu", dtype="float32")[0]


def test_steps_are_those_of_the_cache(model: Any) -> None:
    part = streaming_part(model)
    assert is_streaming(part)
    windows = cut_windows(model, torch.randn(2, 900, model.config.num_mel_bins, generator=torch.manual_seed(3)))
    assert len(windows) > model.config.attention_context[0] // (model.config.attention_context[1] + 1)
    expected = encode_windows(model, windows)
    caches = start_caches(part, 2)
    steps = []
    with torch.no_grad():
        for window in windows:
            output, lengths, *caches = part.module(window, torch.tensor([window.shape[2]] * 2), *caches)
            assert lengths.tolist() == [output.shape[2]] * 2
            steps.append(output.transpose(1, 2))
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert caches[2].tolist() == [model.config.attention_context[0]] * 2


def test_sizes_are_those_of_the_schedule(model: Any) -> None:
    sizes = StreamSizes.of(model)
    chunk = model.config.attention_context[1] + 1
    assert sizes.shift_mel_frames == chunk * model.config.subsampling_factor
    assert sizes.channel_cache == (
        model.config.num_hidden_layers,
        model.config.attention_context[0],
        2 * model.config.hidden_size,
    )


def test_models_that_see_whole_files_are_refused() -> None:
    offline: Any = load_model("demo", device="cpu", dtype="float32")[0]
    with pytest.raises(ValueError, match="attention_context"):
        StreamSizes.of(offline)
