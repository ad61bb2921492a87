"""State that decoding and streaming take and return; modules do not keep any of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch


@dataclass
class TransducerState:
    """
    Position of greedy transducer decoding, from which a later call goes on with the frames that follow.

    Args:
        predictor_state: State of the prediction network, a tuple of tensors whose dimension 1 is the batch.
        predictor_output: (batch, joint_hidden_size), its last output, projected for the joint network.
        frames_ahead: (batch,), frames of the following call that a long last duration has already skipped.
        scorer_states: (batch, kinds), states of phrases and language model, see `TokenScorer`; None without them.

    Nothing is kept about the frame that comes next: a call decodes each of its frames to the end, so the count of
    tokens on a frame starts anew.
    """

    predictor_state: tuple[torch.Tensor, ...]
    predictor_output: torch.Tensor
    frames_ahead: torch.Tensor
    scorer_states: torch.Tensor | None = None

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
            scorer_states=self.scorer_states,
        )

    def select(self, clips: Sequence[int]) -> TransducerState:
        """The state of some clips, as copies."""
        rows = torch.tensor(list(clips), dtype=torch.int64, device=self.frames_ahead.device)
        return TransducerState(
            predictor_state=tuple(part.index_select(1, rows) for part in self.predictor_state),
            predictor_output=self.predictor_output.index_select(0, rows),
            frames_ahead=self.frames_ahead.index_select(0, rows),
            scorer_states=None if self.scorer_states is None else self.scorer_states.index_select(0, rows),
        )

    def describe(self) -> dict[str, object]:
        """Shapes without the clips, and types, which are those of the model."""
        parts = [(part.shape[0], *part.shape[2:], part.dtype) for part in self.predictor_state]
        return {
            "predictor_state": parts,
            "predictor_output": (*self.predictor_output.shape[1:], self.predictor_output.dtype),
            "frames_ahead": (*self.frames_ahead.shape[1:], self.frames_ahead.dtype),
            "scorer_states": _describe_scorer_states(self.scorer_states),
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
            scorer_states=_concatenate_scorer_states([state.scorer_states for state in states]),
        )


def _describe_scorer_states(states: torch.Tensor | None) -> object:
    return None if states is None else (*states.shape[1:], states.dtype)


def _concatenate_scorer_states(states: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    known = [part for part in states if part is not None]
    return torch.cat(known) if len(known) == len(states) else None


@dataclass
class CTCState:
    """
    Position of greedy CTC decoding: a token of the last frame may go on in the frames that follow.

    Args:
        last_frames: Log-probabilities of each clip, (frames, classes): its last frame; with confidences all last
            frames of the same token, since its confidence depends on them all.
        revised_scores: (batch,), confidence in a token that began before the last frames and went on in them, NaN for
            clips without such a token; None without confidences.
        last_labels: Classes of these frames, (frames,) for each clip, where phrases or a language model chose them;
            empty without.
        scorer_states: (batch, kinds), states of phrases and language model, see `TokenScorer`; None without them.
    """

    last_frames: tuple[torch.Tensor, ...]
    revised_scores: torch.Tensor | None = None
    last_labels: tuple[torch.Tensor, ...] = ()
    scorer_states: torch.Tensor | None = None

    @property
    def labels(self) -> tuple[torch.Tensor, ...]:
        """Classes of the last frames, which are the best ones if nothing else chose them."""
        return self.last_labels or tuple(frames.argmax(dim=-1) for frames in self.last_frames)

    def select(self, clips: Sequence[int]) -> CTCState:
        """The state of some clips; their scores stay behind, they belong to the call that returned them."""
        scorer_states = self.scorer_states
        return CTCState(
            tuple(self.last_frames[clip] for clip in clips),
            last_labels=tuple(self.last_labels[clip] for clip in clips) if self.last_labels else (),
            scorer_states=None if scorer_states is None else scorer_states[list(clips)],
        )

    def describe(self) -> dict[str, object]:
        """Classes and type, which are those of the model."""
        return {
            "last_frames": [(*frames.shape[1:], frames.dtype) for frames in self.last_frames],
            "scorer_states": _describe_scorer_states(self.scorer_states),
        }

    @classmethod
    def concatenate(cls, states: Sequence[CTCState]) -> CTCState:
        """The state of the clips of several states, one after the other, without scores."""
        has_labels = any(state.last_labels for state in states)
        return cls(
            tuple(frames for state in states for frames in state.last_frames),
            last_labels=tuple(labels for state in states for labels in state.labels) if has_labels else (),
            scorer_states=_concatenate_scorer_states([state.scorer_states for state in states]),
        )


State = TypeVar("State", TransducerState, CTCState)


def with_phrase_states(state: State) -> State:
    """The state of clips without phrases as of clips with phrases that begin there: these are the first kind."""
    batch_size = len(state.last_frames) if isinstance(state, CTCState) else state.frames_ahead.shape[0]
    like = state.last_frames[0] if isinstance(state, CTCState) else state.frames_ahead
    first = torch.zeros(batch_size, 1, dtype=torch.int64, device=like.device)
    others: tuple[torch.Tensor, ...] = () if state.scorer_states is None else (state.scorer_states,)
    return replace(state, scorer_states=torch.cat([first, *others], dim=1))


def without_phrase_states(state: State) -> State:
    """The opposite of `with_phrase_states`."""
    states = state.scorer_states
    if states is None or states.shape[1] > 1:
        return replace(state, scorer_states=None if states is None else states[:, 1:])
    if isinstance(state, CTCState):
        return replace(state, scorer_states=None, last_labels=())
    return replace(state, scorer_states=None)
