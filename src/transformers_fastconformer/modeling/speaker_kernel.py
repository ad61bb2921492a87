"""Networks before the first block of a multi-talker model."""

from __future__ import annotations

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig


class FastConformerSpeakerKernel(nn.Module):
    """
    Networks that mark the speaker to follow (NeMo's `SpeakerKernelMixin`). Without a target, as here, the speaker is
    everybody and nobody is in the background.
    """

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.speaker = self._build(config)
        self.background = self._build(config) if config.has_background_kernel else None

    @staticmethod
    def _build(config: FastConformerConfig) -> nn.Sequential:
        size = config.hidden_size
        return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Dropout(0.5), nn.Linear(size, size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden_size) to the same."""
        hidden_states = hidden_states + self.speaker(hidden_states)
        if self.background is not None:
            hidden_states = hidden_states + self.background(torch.zeros_like(hidden_states))
        return hidden_states
