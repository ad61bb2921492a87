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

    def with_prediction_of(self, other: TransducerState, clips: torch.Tensor) -> TransducerState:
        """
        The same with the prediction network of some clips where it stands in another state.

        Args:
            other: Its batch is these clips.
            clips: (n,), their numbers here.
        """
        return TransducerState(
            predictor_state=tuple(
                part.index_copy(1, clips, new)
                for part, new in zip(self.predictor_state, other.predictor_state, strict=True)
            ),
            predictor_output=self.predictor_output.index_copy(0, clips, other.predictor_output),
            frames_ahead=self.frames_ahead,
        )


@dataclass
class CTCState:
    """
    Where greedy CTC decoding stands: a token of the last frame may go on in the frames that follow.

    Args:
        last_frames: Log-probabilities of each clip, (frames, classes): its last frame; with confidences all last ones
            of the same token, as its confidence is of them all.
        revised_scores: (batch,), confidence of a token that began before the last frames and went on in them, NaN
            where there is none; None without confidences.
    """

    last_frames: tuple[torch.Tensor, ...]
    revised_scores: torch.Tensor | None = None
