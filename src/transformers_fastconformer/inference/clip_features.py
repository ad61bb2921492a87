"""
Features of one clip for the encoder: all of them in memory, or read from the audio file as they are needed.

Normalisation is over the whole clip, so a long file is read twice: once for the statistics, once for the features. A
shorter clip is read once and its features are held in memory. The samples of a file, and the features of a long one,
are never in memory as a whole: for ten hours at 128 mels they would take 2.3 and 1.8 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ..audio.feature_normalization import FeatureStatistics
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..processing_fastconformer import FastConformerProcessor

# Mel frames of a clip that is held in memory, 22 minutes at the usual hop: 67 MB at 128 mels. The features of such a
# clip are those of the feature extractor to the last bit.
MAX_HELD_FRAMES = 131072


class AudioSource(Protocol):
    """Audio that can be read in blocks again and again: an [`AudioFile`], or samples in memory."""

    @property
    def name(self) -> str:
        """Name of the audio in messages."""

    def blocks(self, sampling_rate: int, channels: str | int = "mix") -> Iterator[np.ndarray]:
        """Samples from the start, (samples,) each, float32, at a rate; the mean of the channels or one of them."""


class ClipFeatures(NamedTuple):
    """
    Log-mel features of one whole clip.

    Args:
        input_features: (mel frames, mels), with one or more masked frames after those that count.
        mel_length: Mel frames that count.
        to_align: Features for a model that aligns the words, where they are others.
    """

    input_features: torch.Tensor
    mel_length: int
    to_align: ClipFeatures | None = None  # type: ignore[misc]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Mel frames `start` to `stop - 1`, or as many of them as the clip has: (mel frames, mels)."""
        return self.input_features[start:stop]


class StreamedFeatures:
    """
    Features of a clip that is read while they are asked for, in order; those before the ones asked for are dropped.

    Args:
        feature_extractor: The model's.
        audio: The file.
        channels: As in [`AudioFile.blocks`].
        num_samples: Samples of the clip at the model's rate.
        statistics: Statistics of its log-mel features, for their normalisation.
    """

    def __init__(
        self,
        feature_extractor: FastConformerFeatureExtractor,
        audio: AudioSource,
        channels: str | int,
        num_samples: int,
        statistics: FeatureStatistics | None,
    ) -> None:
        self.feature_extractor = feature_extractor
        self.audio = audio
        self.channels = channels
        self.num_samples = num_samples
        self.mel_length = feature_extractor.log_mel.mel_length(num_samples)
        self.statistics = statistics
        #: As in [`ClipFeatures`], held in memory.
        self.to_align: ClipFeatures | None = None
        self._restart()

    def _restart(self) -> None:
        self._blocks = self._read()
        self._first_frame = 0  # of what is held
        self._held = torch.zeros(0, self.feature_extractor.output_size, dtype=torch.float32, device="cpu")

    def _read(self) -> Iterator[torch.Tensor]:
        """(mel frames, mels), normalised, masked frames at the end."""
        first = num_samples = 0
        for log_mels, num_samples in log_mel_blocks(self.feature_extractor, self.audio, self.channels):
            if num_samples > self.num_samples:
                break
            features = self.feature_extractor.log_mel.normalize_block(log_mels, self.statistics)
            features[max(self.mel_length - first, 0) :] = self.feature_extractor.padding_value
            first += features.shape[0]
            yield features
        if num_samples != self.num_samples:
            raise ValueError(
                f"{self.audio.name} is not the file of {self.num_samples} samples any more that it was; expected one "
                "that does not change while it is read."
            )

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Mel frames as in [`ClipFeatures.rows`]; for a `start` before the last one the file is read again."""
        if start < self._first_frame:
            self._restart()
        held = [self._held]
        num_frames = self._first_frame + self._held.shape[0]
        while num_frames < stop and (block := next(self._blocks, None)) is not None:
            # Skipped frames are not kept, and of the others only those that are needed.
            block_start = max(start - num_frames, 0)
            num_frames += block.shape[0]
            held.append(block[block_start:])
        self._held = torch.cat(held)
        self._held = self._held[max(self._held.shape[0] - (num_frames - start), 0) :].clone()
        self._first_frame = num_frames - self._held.shape[0]
        return self._held[start - self._first_frame : stop - self._first_frame]


@dataclass(frozen=True)
class FollowedClip:
    """
    A clip for a multi-talker model, which follows one of its speakers.

    Args:
        clip: The features.
        speaker_activities: (encoder frames, 2), of the speaker and of the others, at least as many as the clip has.
    """

    clip: ClipFeatures | StreamedFeatures
    speaker_activities: torch.Tensor

    @property
    def mel_length(self) -> int:
        """Mel frames that count."""
        return self.clip.mel_length

    @property
    def to_align(self) -> None:
        """None: no other model aligns the words."""
        return None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Mel frames as in [`ClipFeatures.rows`]."""
        return self.clip.rows(start, stop)


Clip = ClipFeatures | StreamedFeatures | FollowedClip


def log_mel_blocks(
    feature_extractor: FastConformerFeatureExtractor, audio: AudioSource, channels: str | int
) -> Iterator[tuple[torch.Tensor, int]]:
    """Log-mel features of a file before normalisation, (mels, mel frames) a block, and the samples read so far."""
    state = None
    for samples in audio.blocks(feature_extractor.sampling_rate, channels):
        log_mels, state = feature_extractor.log_mel.extract_block(torch.from_numpy(samples), state)
        if log_mels.shape[1]:
            yield log_mels, state.num_samples
    no_samples = torch.zeros(0, dtype=torch.float32, device="cpu")
    log_mels, state = feature_extractor.log_mel.extract_block(no_samples, state, is_last=True)
    yield log_mels, state.num_samples


@dataclass(frozen=True)
class FrontEnd:
    """
    Samples of clips to all the features that a transcription needs, made once for the model and the options.

    Args:
        processor: The model's.
        to_align: Feature extractor of the model that times the words, where it is another one than the model's.
    """

    processor: FastConformerProcessor
    to_align: FastConformerFeatureExtractor | None = None

    @property
    def sampling_rate(self) -> int:
        """Rate of the samples, in Hz."""
        return self.processor.feature_extractor.sampling_rate

    def extract(self, waveform: np.ndarray) -> ClipFeatures:
        """Features of one whole clip, (samples,)."""
        features = extract_clip(self.processor.feature_extractor, waveform)
        if self.to_align is None:
            return features
        return features._replace(to_align=extract_clip(self.to_align, waveform))

    def open(self, audio: AudioSource, channels: str | int = "mix") -> tuple[ClipFeatures | StreamedFeatures, int]:
        """
        Features of an audio file and the number of its samples, as `open_clip` has them.

        Those for the model that times the words are held in memory whatever the length.
        """
        # First: of a pipe the features are read as they are asked for.
        to_align = None if self.to_align is None else _hold_clip(self.to_align, audio, channels)
        clip, num_samples = open_clip(self.processor.feature_extractor, audio, channels)
        if isinstance(clip, ClipFeatures):
            return clip._replace(to_align=to_align), num_samples
        clip.to_align = to_align
        return clip, num_samples


def extract_clip(feature_extractor: FastConformerFeatureExtractor, waveform: np.ndarray) -> ClipFeatures:
    """Features of one whole clip (samples,) at the model's rate, on the CPU; its batch does not change them."""
    features = feature_extractor(waveform, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
    return ClipFeatures(features["input_features"][0], int(features["input_lengths"][0]))


def open_clip(
    feature_extractor: FastConformerFeatureExtractor,
    audio: AudioSource,
    channels: str | int = "mix",
) -> tuple[ClipFeatures | StreamedFeatures, int]:
    """
    Features of an audio file and the number of its samples at the model's rate.

    The file has to stay open as long as features are asked for.

    Args:
        feature_extractor: The model's.
        audio: The file.
        channels: As in [`AudioFile.blocks`].

    Raises:
        ValueError: for what is not audio, see [`AudioFile.blocks`].
    """
    held: list[torch.Tensor] | None = []
    statistics: FeatureStatistics | None = None
    num_frames = 0
    for log_mels, num_samples in log_mel_blocks(feature_extractor, audio, channels):
        counted = log_mels[:, : max(feature_extractor.log_mel.mel_length(num_samples) - num_frames, 0)]
        num_frames += log_mels.shape[1]
        if feature_extractor.normalize is not None:
            of_block = FeatureStatistics.of(counted)
            statistics = of_block if statistics is None else statistics.join(of_block)
        if held is not None:
            held.append(log_mels)
        if num_frames > MAX_HELD_FRAMES:
            held = None
    if held is None:
        return StreamedFeatures(feature_extractor, audio, channels, num_samples, statistics), num_samples
    whole = torch.cat(held, dim=1)
    held.clear()
    mel_length = feature_extractor.log_mel.mel_length(num_samples)
    return ClipFeatures(feature_extractor.log_mel.finish_clip(whole, mel_length), mel_length), num_samples


def _hold_clip(
    feature_extractor: FastConformerFeatureExtractor, audio: AudioSource, channels: str | int
) -> ClipFeatures:
    blocks = list(log_mel_blocks(feature_extractor, audio, channels))
    num_samples = blocks[-1][1]
    whole = torch.cat([log_mels for log_mels, _ in blocks], dim=1)
    blocks.clear()
    mel_length = feature_extractor.log_mel.mel_length(num_samples)
    return ClipFeatures(feature_extractor.log_mel.finish_clip(whole, mel_length), mel_length)
