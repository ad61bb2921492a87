"""Recordings cut into the chunks of a streaming Sortformer, as NeMo's `streaming_feat_loader` cuts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..modeling.diarization import FastConformerForDiarization
from ..modeling.speaker_cache import SpeakerCache, SpeakerStreamOptions


@dataclass
class _Recording:
    """Features that wait, from the left context of the next chunk on, and the state before it."""

    state: SpeakerCache
    left: int = 0  # mel frames of `waiting` that are the context of the next chunk
    waiting: list[torch.Tensor] = field(default_factory=list)
    is_finished: bool = False

    def count(self) -> int:
        return sum(len(part) for part in self.waiting)


class SpeakerStreams:
    """
    Live recordings that one model hears together: features in, probabilities of speakers out.

    Args:
        model: The model.
        options: How it goes through the recordings; None: what the checkpoint was trained with.
    """

    def __init__(self, model: FastConformerForDiarization, options: SpeakerStreamOptions | None = None) -> None:
        self.model = model
        self.options = SpeakerStreamOptions.of(model.config) if options is None else options
        self.options.check_config(model.config)
        self._factor = model.config.mel_frames_per_encoder_frame
        self._recordings: dict[int, _Recording] = {}

    def push(self, features: Mapping[int, torch.Tensor], are_last: Mapping[int, bool]) -> dict[int, torch.Tensor]:
        """
        Go on with some recordings.

        Args:
            features: The next log-mel features of each, (mel frames, num_mel_bins), by any number; often none.
            are_last: Those that end with them, which are forgotten then.

        Returns:
            (frames, speakers), the probabilities of each that are final now.
        """
        for name, part in features.items():
            if name not in self._recordings:
                self._recordings[name] = _Recording(self.model.start_stream())
            if len(part):
                self._recordings[name].waiting.append(part)
            self._recordings[name].is_finished = are_last.get(name, False)
        found: dict[int, list[torch.Tensor]] = {name: [] for name in features}
        while ready := [name for name in features if self._is_ready(self._recordings[name])]:
            chunks, contexts = [], []
            for name in ready:
                chunk, context = self._take(self._recordings[name])
                chunks.append(chunk)
                contexts.append(context)
            states = [self._recordings[name].state for name in ready]
            probabilities, states = self.model.step(chunks, states, contexts, self.options)
            for name, part, state in zip(ready, probabilities, states, strict=True):
                self._recordings[name].state = state
                found[name].append(part.cpu())
        for name, is_last in are_last.items():
            if is_last:
                self._recordings.pop(name, None)
        nothing = torch.zeros(0, self.model.config.num_speakers, dtype=torch.float32, device="cpu")
        return {name: torch.cat([nothing, *parts]) for name, parts in found.items()}

    def state_of(self, name: int) -> SpeakerCache:
        """The state of a recording that has not ended."""
        return self._recordings[name].state

    def _is_ready(self, recording: _Recording) -> bool:
        new = recording.count() - recording.left
        if recording.is_finished:
            return new > 0
        return new >= (self.options.chunk_frames + self.options.right_context_frames) * self._factor

    def _take(self, recording: _Recording) -> tuple[torch.Tensor, tuple[int, int]]:
        """The next chunk with its context, whose mel frames are told; what the one after it needs is kept."""
        features = torch.cat(recording.waiting)
        left = recording.left
        end = min(left + self.options.chunk_frames * self._factor, len(features))
        stop = min(end + self.options.right_context_frames * self._factor, len(features))
        # The left context of the next chunk; at the start of a recording there may be less.
        recording.left = min(self.options.left_context_frames * self._factor, end)
        recording.waiting = [features[end - recording.left :]]
        return features[:stop], (left, stop - end)
