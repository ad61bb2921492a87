"""Networks between the blocks of a multi-talker model, which tell it whom to listen to."""

from __future__ import annotations

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig
from ..validation import require


class FastConformerSpeakerKernel(nn.Module):
    """
    Networks that mark the frames of the speaker to follow and of the others (NeMo's `SpeakerKernelMixin`).

    Without activities the speaker is everybody and nobody is in the background.
    """

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.speaker = self._build(config)
        self.background = self._build(config) if config.has_background_kernel else None

    @staticmethod
    def _build(config: FastConformerConfig) -> nn.Sequential:
        size = config.hidden_size
        return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Dropout(0.5), nn.Linear(size, size))

    def forward(self, hidden_states: torch.Tensor, activities: torch.Tensor | None = None) -> torch.Tensor:
        """
        Add to the states what they say of the speaker, and then of the others.

        Args:
            hidden_states: (batch, frames, hidden_size).
            activities: (batch, frames, 2), of the speaker to follow and of the others.

        Returns:
            (batch, frames, hidden_size)
        """
        followed = hidden_states if activities is None else hidden_states * activities[..., :1]
        hidden_states = hidden_states + self.speaker(followed)
        if self.background is not None:
            others = torch.zeros_like(hidden_states) if activities is None else hidden_states * activities[..., 1:]
            hidden_states = hidden_states + self.background(others)
        return hidden_states


def build_later_kernels(config: FastConformerConfig) -> nn.ModuleDict:
    """The kernels after blocks, by the number of the block, from 1."""
    return nn.ModuleDict({str(block): FastConformerSpeakerKernel(config) for block in config.later_speaker_kernels})


def prepare_activities(
    config: FastConformerConfig, speaker_activities: torch.Tensor, num_clips: int, least_frames: int, num_frames: int
) -> torch.Tensor:
    """
    Speaker activities in the form that the kernels take.

    Args:
        config: The model's.
        speaker_activities: (clips, frames) or (clips, frames, 2), see [`FastConformerEncoder.forward`].
        num_clips: Clips of the batch.
        least_frames: Encoder frames of the longest clip.
        num_frames: Encoder frames of the batch, its padding included.

    Returns:
        (clips, num_frames, 2); zeros after the frames that are given.

    Raises:
        ValueError: for a model that follows no speaker, a shape or number of frames that does not fit, and values
            that are not between 0 and 1.
    """
    require(config.follows_speakers, "speaker_activities", "a tensor", "None, as this model follows no speaker")
    shape = tuple(speaker_activities.shape)
    require(
        shape[:1] == (num_clips,) and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 2)),
        "the shape of speaker_activities",
        shape,
        f"({num_clips}, encoder frames) or ({num_clips}, encoder frames, 2)",
    )
    require(
        least_frames <= shape[1] <= num_frames,
        "the encoder frames of speaker_activities",
        shape[1],
        str(num_frames) if least_frames == num_frames else f"{least_frames} to {num_frames}",
    )
    is_share = bool(((speaker_activities >= 0) & (speaker_activities <= 1)).all())
    require(is_share, "speaker_activities", "other values", "values between 0 and 1")
    if len(shape) == 2:
        speaker_activities = torch.stack([speaker_activities, torch.zeros_like(speaker_activities)], dim=-1)
    return nn.functional.pad(speaker_activities, (0, 0, 0, num_frames - shape[1]))


def follow_speaker(probabilities: torch.Tensor, speaker: int, threshold: float = 0.5) -> torch.Tensor:
    """
    Speaker activities for one of the speakers of a conversation (NeMo's `MultiTalkerInstanceManager`).

    NeMo 3.0 takes the others from the wrong places where not all speakers are active; here they are all but this one.

    Args:
        probabilities: (..., frames, speakers), that each speaks, such as a Sortformer's.
        speaker: Number of the speaker to follow.
        threshold: Probability above which somebody else speaks.

    Returns:
        (..., frames, 2): the probability of the speaker, and 1 where somebody else speaks, else 0.
    """
    num_speakers = probabilities.shape[-1]
    require(0 <= speaker < num_speakers, "speaker", speaker, f"0 to {num_speakers - 1}")
    others = probabilities > threshold
    others[..., speaker] = False
    return torch.stack([probabilities[..., speaker], others.any(dim=-1).to(probabilities.dtype)], dim=-1)
