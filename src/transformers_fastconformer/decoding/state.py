"""State that decoding and streaming take and return; modules do not keep any of it."""

from __future__ import annotations

from collections.abc import Sequence
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

    def select(self, clips: Sequence[int]) -> TransducerState:
        """The state of some clips, as copies."""
        rows = torch.tensor(list(clips), dtype=torch.int64, device=self.frames_ahead.device)
        return TransducerState(
            predictor_state=tuple(part.index_select(1, rows) for part in self.predictor_state),
            predictor_output=self.predictor_output.index_select(0, rows),
            frames_ahead=self.frames_ahead.index_select(0, rows),
        )

    def describe(self) -> dict[str, object]:
        """Shapes without the clips, and types, which are those of the model."""
        parts = [(part.shape[0], *part.shape[2:], part.dtype) for part in self.predictor_state]
        return {
            "predictor_state": parts,
            "predictor_output": (*self.predictor_output.shape[1:], self.predictor_output.dtype),
            "frames_ahead": (*self.frames_ahead.shape[1:], self.frames_ahead.dtype),
        }

    @classmethod
    def concatenate(cls, states: Sequence[TransducerState]) -> TransducerState:
        """The state of the clips of several states, one after the other."""
        return cls(
            predictor_state=tuple(
                torch.cat(parts, dim=1) for parts in zip(*(state.predictor_state for state in states), strict=True)
            ),
            predictor_output=torch.cat([state.predictor_output for state in states]),
            frames_ahead=torch.cat([state.frames_ahead for state in states]),
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

    def select(self, clips: Sequence[int]) -> CTCState:
        """The state of some clips; their scores stay behind, they belong to the call that returned them."""
        return CTCState(tuple(self.last_frames[clip] for clip in clips))

    def describe(self) -> dict[str, object]:
        """Classes and type, which are those of the model."""
        return {"last_frames": [(*frames.shape[1:], frames.dtype) for frames in self.last_frames]}

    @classmethod
    def concatenate(cls, states: Sequence[CTCState]) -> CTCState:
        """The state of the clips of several states, one after the other, without scores."""
        return cls(tuple(frames for state in states for frames in state.last_frames))
