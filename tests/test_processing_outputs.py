"""Levels of times, and outputs of `generate` clip by clip."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transformers_fastconformer.modeling.outputs import FastConformerGenerateOutput
from transformers_fastconformer.processing_outputs import (
    TIMESTAMP_LEVELS,
    FastConformerTranscription,
    split_output,
    timestamp_levels,
    words_or_segments,
)


@pytest.mark.parametrize(
    ("timestamps", "expected"),
    [
        (True, TIMESTAMP_LEVELS),
        (False, ()),
        (None, ()),
        ("word", ("word",)),
        (["segment", "token"], ("token", "segment")),
        ({"char"}, ("char",)),
    ],
)
def test_levels_come_in_their_order(timestamps: Any, expected: tuple[str, ...]) -> None:
    assert timestamp_levels(timestamps) == expected


@pytest.mark.parametrize("timestamps", [[], "line", ["word", "line"], 1.5, [["word"]]])
def test_other_levels_are_refused(timestamps: Any) -> None:
    with pytest.raises(ValueError, match=r"timestamps=.* is not supported; expected a bool or some of"):
        timestamp_levels(timestamps)


def test_offsets_are_another_word_for_all_levels() -> None:
    assert timestamp_levels(False, output_offsets=True) == TIMESTAMP_LEVELS
    assert timestamp_levels("word", output_offsets=True) == ("word",)


def test_clips_come_without_their_padding() -> None:
    output = FastConformerGenerateOutput(
        sequences=torch.tensor([[5, 6, 9], [7, 9, 9]]),
        sequence_lengths=torch.tensor([2, 1]),
        frame_indices=torch.tensor([[0, 3, 0], [2, 0, 0]]),
        encoder_lengths=torch.tensor([4, 3]),
    )
    first, second = split_output(output)
    assert (first.token_ids, first.frame_indices, first.durations, first.num_frames) == ([5, 6], [0, 3], None, 4)
    assert (second.token_ids, second.frame_indices, second.num_frames) == ([7], [2], 3)
    assert first.below(6).token_ids == [5]
    assert first.below(9) is first
    with pytest.raises(ValueError, match="sequences, sequence_lengths: found None"):
        split_output(FastConformerGenerateOutput())


def test_segments_stand_for_words_where_there_are_none() -> None:
    word = {"word": "a", "start_offset": 0, "end_offset": 1}
    segment = {"segment": "a b", "start_offset": 0, "end_offset": 2}
    part = FastConformerTranscription(text="a b", timestamps={"word": [word], "segment": [segment]})
    assert words_or_segments(part) == [word]
    part = FastConformerTranscription(text="a b", timestamps={"word": [], "segment": [segment]})
    assert [item["word"] for item in words_or_segments(part)] == ["a b"]
    assert words_or_segments(FastConformerTranscription(text="", timestamps={"word": []})) == []
