"""
Features of live audio: samples in pieces of any size to log-mel frames as soon as they cannot change any more.

A frame is given once all samples of its window are there, so that the frames of a stream are those of the whole clip.
Normalisation by statistics of the whole clip cannot be had before its end; [`RunningNormalization`] approximates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import frames
from ..validation import require
from .clips import (
    MAX_CHANNELS,
    MAX_MAGNITUDE,
    MAX_UNNAMED_CHANNELS,
    check_channels,
    check_samples,
    mono_clip,
    read_samples,
)
from .log_mel import LogMel
from .resampling import StreamResampler
from .running_normalization import RunningNormalization, RunningNormalizer


class FeatureStream:
    """
    Log-mel features of one live stream.

    Without normalisation all frames together are those of the feature extractor for the whole audio, to the last bit
    and whatever the sizes of the pieces. (Audio of fewer than `log_mel.MIN_COLUMNS` frames may differ by rounding.) A
    frame comes as soon as the last sample of its window has come: half an `n_fft` after its middle. `pad_to` does not
    apply. The state is a window of samples, and what the resampler and the normalisation keep.

    Args:
        log_mel: The computation, `FastConformerFeatureExtractor.log_mel`; streams that are advanced together share it.
        sampling_rate: Rate of the samples that come, in Hz; None: that of the model. Others are resampled, see
            [`StreamResampler`].
        channels: `"mix"` (and None) averages the channels of pieces that have some, a number takes that one.
        normalization: Options of the normalisation that stands in for that of whole clips; None: the default options.
            A model without normalisation takes only None.
        name: Name of the stream in messages.

    Raises:
        ValueError: for options that do not fit, and for `peak_scaling`, which needs the whole clip.
        ImportError: the extra `audio` is not installed and the rate is another; the message holds the command.
    """

    def __init__(
        self,
        log_mel: LogMel,
        sampling_rate: int | None = None,
        channels: str | int | None = None,
        normalization: RunningNormalization | None = None,
        name: str = "stream",
    ) -> None:
        settings = log_mel.settings
        expected = "None for a stream: its largest sample is not known before its end"
        require(settings.peak_scaling is None, "peak_scaling", settings.peak_scaling, expected)
        if channels is not None:
            check_channels(channels)
        self.log_mel = log_mel
        self.sampling_rate = settings.sampling_rate if sampling_rate is None else sampling_rate
        self.channels = channels
        self.name = name
        self.is_finished = False
        self.num_heard = 0  # samples that came, at their own rate
        self.num_samples = 0  # at the rate of the model
        self.num_frames = 0  # computed; the normalisation may hold some of them
        self._resampler: StreamResampler | None = None
        if self.sampling_rate != settings.sampling_rate:
            self._resampler = StreamResampler(self.sampling_rate, settings.sampling_rate)
        self._normalizer: RunningNormalizer | None = None
        if settings.normalize is None:
            require(normalization is None, "normalization", normalization, "None for a model without normalisation")
        else:
            frame_seconds = frames.seconds_from_samples(settings.hop_length, settings.sampling_rate)
            options = RunningNormalization() if normalization is None else normalization
            self._normalizer = RunningNormalizer(settings.normalize, settings.output_size, frame_seconds, options)
        # Samples from the one before the window of the next frame, which pre-emphasis needs; at the start the zeros in
        # front of the clip.
        self._held = np.zeros(settings.padding_samples + 1, dtype=np.float32)
        self._no_features = torch.zeros(0, settings.output_size, dtype=torch.float32, device="cpu")
        self._waiting: list[np.ndarray] = []  # pieces that do not complete a frame yet

    @property
    def seconds_heard(self) -> float:
        """Length of the audio that came."""
        return frames.seconds_from_samples(self.num_heard, self.sampling_rate)

    def push(self, samples: Any) -> torch.Tensor:
        """
        Features that are final now.

        Args:
            samples: (samples,), the next ones: floats in [-1, 1] or 16-bit integers, an array, a tensor or a list; any
                number of them. With channels: two dimensions, the longer one is time.

        Returns:
            (mel frames, features) float32, on the CPU; often none.

        Raises:
            ValueError: for what is not samples, and after `finish`; the stream stays as it was.
        """
        return push_streams([self], [samples])[0]

    def finish(self, samples: Any = None, with_masked_frame: bool = False) -> torch.Tensor:
        """
        The rest of the features, to the end of the stream.

        Args:
            samples: The last ones, as in `push`; None: there are no more.
            with_masked_frame: Add the masked frame, of `padding_value`, that the feature extractor has after the valid
                ones of a clip, and that NeMo 3.0.0 counts as a frame of a stream. Without it the frames are those that
                count.

        Returns:
            (mel frames, features), as in `push`.
        """
        pieces = [np.zeros(0, dtype=np.float32) if samples is None else samples]
        return push_streams([self], pieces, [True], with_masked_frame)[0]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state as tensors on the CPU, of which safetensors can make a file."""
        counts = [self.num_heard, self.num_samples, self.num_frames, int(self.is_finished)]
        state = {"samples": self._join_samples().copy(), "counts": np.array(counts, dtype=np.int64)}
        for name, part in self._parts():
            state |= {f"{name}.{key}": array for key, array in part.state_dict().items()}
        return {key: torch.from_numpy(array) for key, array in state.items()}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """
        Go on where another stream of the same model and options was.

        Args:
            tensors: What its `state_dict` gave.

        Raises:
            ValueError: for tensors of a stream of another kind; this stream is not usable then.
        """
        expected = self.state_dict()
        for key in sorted({*expected, *tensors}):
            found = tensors[key].dtype if key in tensors else None
            wanted = expected[key].dtype if key in expected else None
            require(found == wanted, f"type of {key!r} of the state", found, str(wanted))
        arrays = {key: tensor.detach().cpu().numpy() for key, tensor in tensors.items()}
        require(arrays["counts"].shape == (4,), "counts", arrays["counts"].shape, "(4,)")
        self.num_heard, self.num_samples, self.num_frames, is_finished = arrays["counts"].tolist()
        self.is_finished = bool(is_finished)
        self._held, self._waiting = arrays["samples"].copy(), []
        settings = self.log_mel.settings
        num_held = self.num_samples + settings.padding_samples + 1 - self.num_frames * settings.hop_length
        if not self.is_finished:
            require(self._held.shape == (num_held,), "samples of the state", self._held.shape, f"({num_held},)")
        for name, part in self._parts():
            start = f"{name}."
            part.load_state_dict({key[len(start) :]: array for key, array in arrays.items() if key.startswith(start)})

    def _parts(self) -> list[tuple[str, Any]]:
        parts = [("resampler", self._resampler), ("normalization", self._normalizer)]
        return [(name, part) for name, part in parts if part is not None]

    def _join_samples(self) -> np.ndarray:
        if self._waiting:
            self._held = np.concatenate([self._held, *self._waiting])
            self._waiting = []
        return self._held

    # The steps of `push_streams`

    def read(self, samples: Any) -> np.ndarray:
        """Mono samples of a piece, checked; the stream stays as it was."""
        if self.is_finished:
            raise ValueError(f"{self.name} is finished; expected no more samples.")
        clip = read_samples(samples, self.name)
        shape = tuple(clip.shape)
        if 0 in shape:  # nothing, of whatever channels
            return np.zeros(0, dtype=np.float32)
        if len(shape) > 1:
            # With few samples the channels could be taken for time.
            most_channels = MAX_UNNAMED_CHANNELS if self.channels is None else MAX_CHANNELS
            is_clear = max(shape) == 1 or min(shape) == 0 or max(shape) > most_channels
            expected = f"(samples,), or more than {most_channels} samples with channels"
            require(is_clear, f"shape of the samples of {self.name}", shape, expected)
        clip = mono_clip(clip, self.name, self.channels).cpu()
        array = clip.numpy()
        # A quick look first; a value that is not a number fails it too.
        if not float(np.abs(array).max(initial=0.0)) <= MAX_MAGNITUDE:
            check_samples(clip[None], [self.name], self.num_heard)
        return array

    def take(self, samples: np.ndarray, is_last: bool) -> torch.Tensor | None:
        """
        Windows of the frames that are ready, after pre-emphasis.

        Args:
            samples: What `read` gave.
            is_last: The stream ends with them.

        Returns:
            (mel frames, n_fft), or None as long as no frame is ready.
        """
        self.num_heard += samples.shape[0]
        if self._resampler is not None:
            samples = self._resampler.resample(samples, is_last)
        self.num_samples += samples.shape[0]
        self.is_finished = is_last
        if samples.shape[0]:
            self._waiting.append(samples.copy())  # the caller may use the memory again
        num_ready = self._count_final_frames() - self.num_frames
        if num_ready <= 0:
            return None
        settings = self.log_mel.settings
        held = self._join_samples()
        emphasized = held[1:]
        if settings.preemphasis is not None:
            # Two roundings, as in `log_mel`: the product, then the difference.
            emphasized = emphasized - held[:-1] * np.float32(settings.preemphasis)
        if is_last:
            if settings.preemphasis is not None and settings.cut_samples:
                emphasized[max(emphasized.shape[0] - settings.cut_samples, 0) :] = 0.0
            emphasized = np.pad(emphasized, (0, settings.n_fft))
        self.num_frames += num_ready
        self._held = held[num_ready * settings.hop_length :].copy()
        return torch.from_numpy(emphasized).unfold(0, settings.n_fft, settings.hop_length)[:num_ready]

    def give(self, features: torch.Tensor | None, with_masked_frame: bool) -> torch.Tensor:
        """
        Features of the frames that were ready, normalised.

        Args:
            features: (mel frames, features) of the windows, or None as long as no frame is ready.
            with_masked_frame: As in `finish`, at the end.
        """
        if features is None:
            if not self.is_finished:
                return self._no_features
            features = self._no_features
        if self._normalizer is not None:
            features = torch.from_numpy(self._normalizer.push(features.numpy(), self.is_finished))
        if with_masked_frame and self.is_finished:
            masked = features.new_full((1, features.shape[1]), self.log_mel.settings.padding_value)
            features = torch.cat([features, masked])
        return features

    def _count_final_frames(self) -> int:
        """Frames of the stream that count and cannot change any more."""
        settings = self.log_mel.settings
        mel_length = self.log_mel.mel_length(self.num_samples)
        if self.is_finished:
            return mel_length
        # The last samples of a clip may be cut off, see `LogMelSettings.cut_samples`.
        num_certain = self.num_samples - (0 if settings.preemphasis is None else settings.cut_samples)
        num_whole = (num_certain + settings.padding_samples - settings.n_fft) // settings.hop_length + 1
        return min(mel_length, num_whole)


def push_streams(
    streams: Sequence[FeatureStream],
    pieces: Sequence[Any],
    are_last: Sequence[bool] | None = None,
    with_masked_frame: bool = False,
) -> list[torch.Tensor]:
    """
    Advance many streams together, with one transform for all; the result for a stream does not depend on the others.

    Args:
        streams: The streams, each once.
        pieces: The next samples of each, as in [`FeatureStream.push`].
        are_last: True for streams that end with these samples; None: none of them.
        with_masked_frame: As in [`FeatureStream.finish`].

    Returns:
        (mel frames, features) of each.

    Raises:
        ValueError: for what is not samples; all streams stay as they were.
    """
    are_last = [False] * len(streams) if are_last is None else are_last
    if not len(streams) == len(pieces) == len(are_last):
        counts = f"{len(pieces)} and {len(are_last)}"
        raise ValueError(f"pieces, are_last: found {counts}; expected one for each of {len(streams)} streams.")
    samples = [stream.read(piece) for stream, piece in zip(streams, pieces, strict=True)]
    return push_waveforms(streams, samples, are_last, with_masked_frame)


def push_waveforms(
    streams: Sequence[FeatureStream],
    samples: Sequence[np.ndarray],
    are_last: Sequence[bool],
    with_masked_frame: bool = False,
) -> list[torch.Tensor]:
    """`push_streams` of samples that each stream has read already ([`FeatureStream.read`])."""
    windows = [stream.take(*item) for stream, item in zip(streams, zip(samples, are_last, strict=True), strict=True)]
    by_computation: dict[int, list[int]] = {}
    for place, stream in enumerate(streams):
        by_computation.setdefault(id(stream.log_mel), []).append(place)
    features: dict[int, torch.Tensor] = {}
    for places in by_computation.values():
        log_mel = streams[places[0]].log_mel
        ready = [(place, found) for place in places if (found := windows[place]) is not None]
        if ready:
            computed = log_mel.extract_windows(torch.cat([found for _, found in ready]))
            parts = computed.split([found.shape[0] for _, found in ready])
            features |= {place: part for (place, _), part in zip(ready, parts, strict=True)}
    results = []
    for place, stream in enumerate(streams):
        results.append(stream.give(features.get(place), with_masked_frame))
    return results
