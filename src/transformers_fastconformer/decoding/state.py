"""State that decoding and streaming take and return; modules do not keep any of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class TransducerState:
    """
    Position of greedy transducer decoding, from which a later call goes on with the frames that follow.

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
        Copy the state, with the prediction network of some clips from another state.

        Args:
            other: State whose batch is these clips.
            clips: (n,), their numbers in this state.
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
    Position of greedy CTC decoding: a token of the last frame may go on in the frames that follow.

    Args:
        last_frames: Log-probabilities of each clip, (frames, classes): its last frame; with confidences all last
            frames of the same token, since its confidence depends on them all.
        revised_scores: (batch,), confidence in a token that began before the last frames and went on in them, NaN for
            clips without such a token; None without confidences.
    """

    last_frames: tuple[torch.Tensor, ...]
    revised_scores: torch.Tensor | None = None
