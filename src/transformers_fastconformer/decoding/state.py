"""State that decoding and streaming pass in and return; nothing of it is kept on a module."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class TransducerState:
    """
    Where greedy transducer decoding stands, so that a later call can go on with the frames that follow.

    Args:
        predictor_state: State of the prediction network, a tuple of tensors whose dimension 1 is the batch.
        predictor_output: (batch, joint_hidden_size), its last output, projected for the joint network.
        frames_ahead: (batch,), frames of the following call that a long last duration has already skipped.

    Nothing is kept about the frame that comes next: a call decodes each of its frames to the end, so the count of
    tokens on a frame starts anew.
    """

    predictor_state: tuple[torch.Tensor, ...]
    predictor_output: torch.Tensor
    frames_ahead: torch.Tensor
