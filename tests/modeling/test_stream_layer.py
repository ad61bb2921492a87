"""Frames that the convolution of a block keeps from one step of live streams to the next."""

from __future__ import annotations

import torch

from transformers_fastconformer.modeling.masking import ContextWindow
from transformers_fastconformer.modeling.ring_attention import RingTables
from transformers_fastconformer.modeling.stream_layer import StreamLayer


def build_layer(convolutions: torch.Tensor, rows: torch.Tensor | None, kept_frames: int | list[int]) -> StreamLayer:
    num_streams = len(convolutions) if rows is None else len(rows)
    ring = RingTables.build(ContextWindow(2, 2, 0), 2, 2, torch.device("cpu"))
    step = ring.locate(rows, [0] * num_streams, [2] * num_streams, 2)
    none = torch.zeros(0)
    return StreamLayer(none, none, convolutions, none, step, None, kept_frames)


def test_left_frames_come_first_and_the_newest_are_kept():
    convolutions = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[..., None]
    new = torch.tensor([[10.0, 11.0], [12.0, 13.0]])[..., None]
    extended = build_layer(convolutions, None, 2).extend(new, 1)
    assert extended[..., 0].tolist() == [[1, 2, 3, 10, 11, 0], [4, 5, 6, 12, 13, 0]]
    assert convolutions[..., 0].tolist() == [[3, 10, 11], [6, 12, 13]]


def test_only_the_rows_of_a_step_change_each_by_what_it_keeps():
    convolutions = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])[..., None]
    new = torch.tensor([[10.0, 11.0], [12.0, 13.0]])[..., None]
    build_layer(convolutions, torch.tensor([2, 0]), [1, 0]).extend(new, 0)
    assert convolutions[..., 0].tolist() == [[1, 2], [3, 4], [6, 10]]
