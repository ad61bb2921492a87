"""The schedule of a stream: numbers of frames next to those worked out by hand, and refusals."""

from __future__ import annotations

import pytest
from models import build_config

from transformers_fastconformer import StreamingSchedule
from transformers_fastconformer.modeling.streaming_schedule import list_schedules

CAUSAL = {"causal_downsampling": True, "conv_context": [4, 0], "conv_norm_type": "layer_norm"}
CHUNKS = {**CAUSAL, "attention_context_style": "chunked_limited", "attention_context": [14, 6]}


@pytest.mark.parametrize(
    ("options", "arguments", "expected"),
    [
        # first chunk, later chunks, frames computed a step, frames given out
        (CHUNKS, {}, (49, 56, 7, 7)),
        ({**CHUNKS, "attention_context": [14, 0]}, {}, (1, 8, 1, 1)),
        (CHUNKS, {"chunk_frames": 14}, (105, 112, 14, 14)),
        ({**CHUNKS, "subsampling_factor": 4}, {}, (25, 28, 7, 7)),
        ({**CHUNKS, "subsampling_type": "stacking", "subsampling_factor": 4}, {}, (28, 28, 7, 7)),
        ({**CAUSAL, "attention_context": [10, 0]}, {}, (1, 8, 1, 1)),
        ({**CAUSAL, "attention_context": [10, 0]}, {"chunk_frames": 3}, (17, 24, 3, 3)),
        # Two blocks look one frame ahead each: two more frames are computed.
        ({**CAUSAL, "attention_context": [10, 1]}, {}, (17, 8, 3, 1)),
        ({**CAUSAL, "attention_context": [10, 1], "conv_context": [3, 1]}, {"chunk_frames": 2}, (41, 16, 6, 2)),
    ],
)
def test_numbers_of_frames(options: dict, arguments: dict, expected: tuple[int, ...]):
    schedule = StreamingSchedule.of(build_config("encoder", **options), **arguments)
    found = (schedule.first_mel_frames, schedule.mel_frames, schedule.step_frames, schedule.chunk_frames)
    assert found == expected


def test_every_trained_context_has_a_schedule():
    contexts = [[14, 6], [14, 1], [14, 0]]
    config = build_config("encoder", **CHUNKS, attention_contexts=contexts)
    assert [list(schedule.attention_context) for schedule in list_schedules(config)] == contexts
    with pytest.raises(ValueError, match=r"attention_context=\[14, 2\].*\[14, 1\]"):
        StreamingSchedule.of(config, [14, 2])


@pytest.mark.parametrize(
    ("options", "arguments", "match"),
    [
        ({**CAUSAL, "attention_context": [-1, 0]}, {}, "attention_context="),
        ({**CAUSAL, "attention_context": [5, -1]}, {}, "attention_context="),
        (
            {**CHUNKS, "attention_context_style": "chunked_limited_with_rc", "attention_context": [4, 2, 1]},
            {},
            "style",
        ),
        ({**CHUNKS, "position_embedding_type": "abs_pos"}, {}, "position_embedding_type='abs_pos'"),
        ({**CHUNKS, "position_embedding_type": "rel_pos_local_attn"}, {}, "position_embedding_type"),
        ({**CHUNKS, "conv_norm_type": "instance_norm"}, {}, "conv_norm_type='instance_norm'"),
        ({**CHUNKS, "reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 2}, {}, "reduction"),
        ({**CHUNKS, "subsampling_type": "none"}, {}, "subsampling_type='none'"),
        (CHUNKS, {"chunk_frames": 8}, "chunk_frames=8.*multiple of 7"),
        (CHUNKS, {"chunk_frames": 0}, "chunk_frames=0"),
        ({**CHUNKS, "causal_downsampling": False}, {"is_exact": True}, "causal_downsampling=False"),
        ({**CHUNKS, "conv_context": [2, 2]}, {"is_exact": True}, "conv_context="),
    ],
)
def test_what_cannot_stream_is_refused_by_name(options: dict, arguments: dict, match: str):
    with pytest.raises(ValueError, match=match):
        StreamingSchedule.of(build_config("encoder", **options), **arguments)
