"""Waveforms to log-mel features: NeMo's `AudioToMelSpectrogramPreprocessor` at inference, without NeMo."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from . import frames
from .checkpoint_sources import LoadsFromSources

logger = logging.get_logger(__name__)

WINDOW_FUNCTIONS = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
NORMALIZATIONS = ("per_feature", "all_features", None)
FILTERBANK_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Keeps a constant feature from a division by zero. NeMo 3.0.0: CONSTANT in parts/preprocessing/features.py.
STANDARD_DEVIATION_FLOOR = 1e-5
# More channels than any recording has: a 2-D item wider than this is not audio.
MOST_CHANNELS = 32
# Bounds the memory of the transform for long audio: 41 s at a time at the usual hop.
FRAMES_AT_ONCE = 4096
# Mels of a clip that are normalised at a time where that is several copies of a long clip.
MELS_AT_ONCE = 8
# What transformers writes into a preprocessor_config.json, or passes, beside our own arguments.
BOOKKEEPING_KEYS = {"feature_extractor_type", "processor_class", "auto_map", "_processor_class"}


def mel_filterbank(
    sampling_rate: int,
    n_fft: int,
    num_mels: int,
    min_frequency: float = 0.0,
    max_frequency: float | None = None,
    mel_norm: str | None = "slaney",
) -> np.ndarray:
    """Triangular filters, equally wide on Slaney's mel scale; float32, shape (num_mels, n_fft // 2 + 1).

    The scale (Slaney, 1998, "Auditory Toolbox") is linear to 1000 Hz at 66.67 Hz a mel, then logarithmic, a factor of
    6.4 in 27 mels. `mel_norm="slaney"` gives every filter the same area. Bit-equal to `librosa.filters.mel`, whose
    values NeMo stores; that fixes where float64 is rounded to float32: after the triangles and again after the norm.
    """
    hertz_per_mel = 200.0 / 3
    knee_hertz = 1000.0
    knee_mels = knee_hertz / hertz_per_mel
    log_step = np.log(6.4) / 27.0

    def mels_from_hertz(hertz: float) -> float:
        if hertz < knee_hertz:
            return hertz / hertz_per_mel
        return float(knee_mels + np.log(hertz / knee_hertz) / log_step)

    highest = sampling_rate / 2 if max_frequency is None else max_frequency
    edge_mels = np.linspace(mels_from_hertz(float(min_frequency)), mels_from_hertz(float(highest)), num_mels + 2)
    edge_hertz = np.where(
        edge_mels >= knee_mels, knee_hertz * np.exp(log_step * (edge_mels - knee_mels)), hertz_per_mel * edge_mels
    )
    bin_hertz = np.fft.rfftfreq(n_fft, d=1.0 / sampling_rate)
    widths = np.diff(edge_hertz)[:, None]
    distances = edge_hertz[:, None] - bin_hertz[None, :]  # (num_mels + 2, bins)
    rising = -distances[:-2] / widths[:-1]
    falling = distances[2:] / widths[1:]
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)  # (num_mels, bins)
    if mel_norm == "slaney":
        filters = (filters * (2.0 / (edge_hertz[2:] - edge_hertz[:-2]))[:, None]).astype(np.float32)
    return filters


@dataclass(frozen=True)
class FeatureStreamState:
    """
    Where the features of a clip stand whose samples come in blocks.

    Args:
        waiting: (1, samples), samples after pre-emphasis, the zeros in front included, that frames still to come need.
        last_sample: (1, 1), the last sample as it came; (1, 0) at the start.
        num_samples: Samples that have come.
    """

    waiting: torch.Tensor
    last_sample: torch.Tensor
    num_samples: int


@dataclass(frozen=True)
class FeatureStatistics:
    """
    Number, means and sums of squared deviations of the frames of a clip, for each mel and in float64.

    Blocks are joined by the pairwise rule of Chan, Golub and LeVeque (1979), which does not lose digits however long
    the clip is.

    Args:
        num_frames: Frames that count.
        means, squares: (mels,).
    """

    num_frames: int
    means: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, log_mels: torch.Tensor) -> FeatureStatistics:
        """Of (mels, mel frames), all of which count."""
        values = log_mels.double()
        num_frames = values.shape[1]
        means = values.sum(dim=1) / max(num_frames, 1)
        return cls(num_frames, means, (values - means[:, None]).square_().sum(dim=1))

    def join(self, following: FeatureStatistics) -> FeatureStatistics:
        """Of both blocks together."""
        num_frames = self.num_frames + following.num_frames
        share = following.num_frames / max(num_frames, 1)
        gap = following.means - self.means
        return FeatureStatistics(
            num_frames,
            self.means + gap * share,
            self.squares + following.squares + gap.square() * (self.num_frames * share),
        )


class FastConformerFeatureExtractor(LoadsFromSources, SequenceFeatureExtractor):
    r"""
    Constructs a FastConformer feature extractor: raw speech to (normalised) log-mel features.

    On a CPU the features are bit-equal to those of NeMo 3.0.0's `AudioToMelSpectrogramPreprocessor` at inference for
    the same batch. Like NeMo's, the features of a clip may differ in the last bits (about 1e-6) between one batch and
    another, because sums over more columns are rounded otherwise; `padding=False` computes every clip alone.

    Args:
        feature_size (`int`, defaults to 80): Mel features a frame.
        sampling_rate (`int`, defaults to 16000): Samples a second, in Hz.
        hop_length (`int`, defaults to 160): Samples from one frame to the next.
        win_length (`int`, defaults to 400): Samples in a window.
        n_fft (`int`, *optional*, defaults to 512): Length of the Fourier transform; `None`: the power of 2 that holds
            the window.
        preemphasis (`float`, *optional*, defaults to 0.97): Share of the sample before that is taken off each sample.
        window (`str`, defaults to `"hann"`): `"hann"`, `"hamming"`, `"blackman"` or `"bartlett"`, all symmetric.
        normalize (`str`, *optional*, defaults to `"per_feature"`): Zero mean, unit deviation over the valid frames of
            a clip, for every mel (`"per_feature"`) or all together (`"all_features"`).
        mag_power (`float`, defaults to 2.0): Power of the magnitudes; 2 is the power spectrum.
        log (`bool`, defaults to `True`): Take the logarithm.
        log_zero_guard_type (`str`, defaults to `"add"`): `"add"` to the mels, or `"clamp"` them, before the logarithm.
        log_zero_guard_value (`float` or `str`, defaults to 2**-24): The number, or `"eps"` or `"tiny"` of float32.
        pad_to (`int`, defaults to 0): Frames of a batch are filled up to a multiple of it; 0 leaves them alone.
        padding_value (`float`, defaults to 0.0): Value of every masked frame.
        exact_pad (`bool`, defaults to `False`): Pad N samples so that they give N // hop_length frames, not one more.
        frame_splicing (`int`, defaults to 1): Features are repeated so often, side by side (what NeMo 3.0 does).
        min_frequency (`float`, defaults to 0.0), max_frequency (`float`, *optional*): Range of the filters in Hz;
            `None` is half of the sampling rate.
        mel_norm (`str`, *optional*, defaults to `"slaney"`): Filters of equal area, or (`None`) of equal height.
        filterbank_dtype (`str`, defaults to `"float32"`): `"float16"` and `"bfloat16"` round filters and window, as in
            archives of half precision; the computation is in float32 all the same.
        mel_filters (array of shape (feature_size, n_fft // 2 + 1), *optional*): Instead of the computed filters.
        window_values (array of shape (win_length,), *optional*): Instead of the computed window.

    Raises:
        ValueError: for an unknown argument, or a value that is not accepted.
    """

    model_input_names = ["input_features", "attention_mask", "input_lengths"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        win_length: int = 400,
        n_fft: int | None = 512,
        preemphasis: float | None = 0.97,
        window: str = "hann",
        normalize: str | None = "per_feature",
        mag_power: float = 2.0,
        log: bool = True,
        log_zero_guard_type: str = "add",
        log_zero_guard_value: float | str = 2**-24,
        pad_to: int = 0,
        padding_value: float = 0.0,
        exact_pad: bool = False,
        frame_splicing: int = 1,
        min_frequency: float = 0.0,
        max_frequency: float | None = None,
        mel_norm: str | None = "slaney",
        filterbank_dtype: str = "float32",
        mel_filters: Any = None,
        window_values: Any = None,
        **kwargs: Any,
    ) -> None:
        for name, only in (("padding_side", "right"), ("return_attention_mask", True)):
            value = kwargs.pop(name, only)
            _require(value == only, name, value, repr(only))
        unknown = sorted(set(kwargs) - BOOKKEEPING_KEYS)
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no argument of {type(self).__name__}.")
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = hop_length
        self.win_length = win_length
        self.preemphasis = preemphasis
        self.window = window
        self.normalize = normalize
        self.mag_power = mag_power
        self.log = log
        self.log_zero_guard_type = log_zero_guard_type
        self.log_zero_guard_value = log_zero_guard_value
        self.pad_to = pad_to
        self.exact_pad = exact_pad
        self.frame_splicing = frame_splicing
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        self.mel_norm = mel_norm
        self.filterbank_dtype = filterbank_dtype
        _require_positive_integer("win_length", win_length)
        self.n_fft = 2 ** math.ceil(math.log2(win_length)) if n_fft is None else n_fft
        self._validate()
        self.mel_filters = _override("mel_filters", mel_filters, (self.feature_size, self.n_fft // 2 + 1))
        self.window_values = _override("window_values", window_values, (self.win_length,))
        self._constants: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def _validate(self) -> None:
        for name in ("feature_size", "sampling_rate", "hop_length", "n_fft", "frame_splicing"):
            _require_positive_integer(name, getattr(self, name))
        _require(self.n_fft >= self.win_length, "n_fft", self.n_fft, f"at least win_length={self.win_length}")
        _require(_is_integer(self.pad_to) and self.pad_to >= 0, "pad_to", self.pad_to, "0 or a positive integer")
        for name in ("log", "exact_pad"):
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        for name in ("mag_power", "padding_value", "min_frequency"):
            _require(_is_number(getattr(self, name)), name, getattr(self, name), "a number")
        for name in ("preemphasis", "max_frequency"):
            value = getattr(self, name)
            _require(value is None or _is_number(value), name, value, "a number or None")
        _require(self.window in WINDOW_FUNCTIONS, "window", self.window, f"one of {tuple(WINDOW_FUNCTIONS)}")
        _require(self.normalize in NORMALIZATIONS, "normalize", self.normalize, f"one of {NORMALIZATIONS}")
        _require(
            self.log_zero_guard_type in ("add", "clamp"),
            "log_zero_guard_type",
            self.log_zero_guard_type,
            "'add' or 'clamp'",
        )
        guard = self.log_zero_guard_value
        _require(
            guard in ("eps", "tiny") or _is_number(guard), "log_zero_guard_value", guard, "a number, 'eps' or 'tiny'"
        )
        _require(self.mel_norm in ("slaney", None), "mel_norm", self.mel_norm, "'slaney' or None")
        _require(
            self.filterbank_dtype in FILTERBANK_DTYPES,
            "filterbank_dtype",
            self.filterbank_dtype,
            f"one of {tuple(FILTERBANK_DTYPES)}",
        )
        highest = self.sampling_rate / 2 if self.max_frequency is None else self.max_frequency
        _require(0 <= self.min_frequency < highest, "min_frequency", self.min_frequency, f"0 to below {highest} Hz")
        if self.exact_pad:
            _require(self.hop_length % 2 == 0, "hop_length", self.hop_length, "an even number where exact_pad is set")
            _require(
                self.hop_length <= self.n_fft, "hop_length", self.hop_length, "at most n_fft where exact_pad is set"
            )

    @property
    def output_size(self) -> int:
        """Features a frame that come out: `feature_size`, times `frame_splicing`."""
        return self.feature_size * self.frame_splicing

    def __call__(
        self,
        raw_speech: Any,
        audio_lengths: Any = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        device: str | torch.device | None = None,
        channels: str | int | None = None,
        truncation: bool = False,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        r"""
        Args:
            raw_speech: Floating-point samples in [-1, 1], as arrays, tensors or lists of floats:

                - one dimension: one clip;
                - a list: one clip an item. An item of two dimensions is a clip with channels, in either order: the
                  longer side is time;
                - two dimensions (batch, samples) **with** `audio_lengths`: a padded batch;
                - two dimensions with `channels` and without `audio_lengths`: one clip with channels. With neither, an
                  array of two dimensions could be a batch or stereo and is refused, unless one side is 1;
                - three dimensions: a batch of clips with channels.
            audio_lengths (integers of shape (batch,), *optional*): Valid samples of each clip; samples beyond count
                for nothing.
            sampling_rate (`int`, *optional*): Rate of `raw_speech`; it must be the model's.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`; `None`: tensors if `raw_speech` holds tensors or
                `device` is given, else arrays.
            padding (`bool` or `str`, defaults to `True`): `True` or `"longest"` pads to the longest clip; `False` or
                `"do_not_pad"` computes each clip alone and gives lists, or with `return_tensors` tensors where all
                clips have equally many frames.
            device (`str` or `torch.device`, *optional*): Where to compute; tensors stay there. `None`: where the
                tensors of `raw_speech` are, else the CPU.
            channels (`str` or `int`, *optional*): `"mix"` (and `None`) averages the channels of a clip, a number
                takes that one.
            truncation (`bool`, defaults to `False`): Nothing is ever cut; only `False` is accepted.
            return_attention_mask (`bool`, *optional*): The mask is always returned; `False` is not accepted.

        Returns:
            [`BatchFeature`]: `input_features` (batch, mel frames, mels) float32; `attention_mask` (batch, mel frames)
            bool, True for valid frames; `input_lengths` (batch,) int64, valid mel frames. A clip of N samples has
            N // hop_length valid frames and at least one masked frame behind them. Clips under one hop have none.
        """
        self._check_sampling_rate(sampling_rate)
        _require(not truncation, "truncation", truncation, "False: clips are never cut")
        _require(return_attention_mask in (None, True), "return_attention_mask", return_attention_mask, "True or None")
        _require(return_tensors in (None, "pt", "np"), "return_tensors", return_tensors, "'pt', 'np' or None")
        _require(
            padding in (True, False, "longest", "do_not_pad"),
            "padding",
            padding,
            "True, 'longest', False or 'do_not_pad'",
        )
        clips, holds_tensors = _clips_from(raw_speech, audio_lengths is not None, channels)
        lengths = _lengths_from(audio_lengths, clips)
        if return_tensors is None:
            return_tensors = "pt" if holds_tensors or device is not None else "np"
            return_tensors_given = False
        else:
            return_tensors_given = True
        if device is None:
            device = clips[0].device if holds_tensors else "cpu"

        if padding in (True, "longest"):
            outputs = self._extract_batch(clips, lengths, torch.device(device), first_index=0)
            return BatchFeature({name: _as(tensor, return_tensors) for name, tensor in outputs.items()})
        singles = [
            self._extract_batch([clip[:length]], [length], torch.device(device), first_index=index)
            for index, (clip, length) in enumerate(zip(clips, lengths, strict=True))
        ]
        mel_frames = sorted({single["input_features"].shape[1] for single in singles})
        if return_tensors_given and len(mel_frames) > 1:
            raise ValueError(
                f"return_tensors={return_tensors!r} needs clips of equally many mel frames, but there are clips of "
                f"{mel_frames[0]} to {mel_frames[-1]}; expected padding=True, or return_tensors=None for lists."
            )
        if return_tensors_given:
            return BatchFeature(
                {name: _as(torch.cat([single[name] for single in singles]), return_tensors) for name in singles[0]}
            )
        data: dict[str, Any] = {
            name: [_as(single[name][0], return_tensors) for single in singles]
            for name in ("input_features", "attention_mask")
        }
        data["input_lengths"] = _as(torch.cat([single["input_lengths"] for single in singles]), return_tensors)
        return BatchFeature(data)

    @torch.no_grad()
    def extract(self, waveforms: torch.Tensor, audio_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The plain computation, unchecked: a padded float32 batch to features and their lengths, on one device.

        Samples beyond a clip's length must be zero where there is no pre-emphasis (with it they are ignored).

        Args:
            waveforms: (batch, samples), at least one sample
            audio_lengths: (batch,) integers, on the device of `waveforms`; 0 is allowed

        Returns:
            features (batch, mel frames, mels) float32, and valid mel frames (batch,) int64.
        """
        window, mel_filters = self._constants_on(waveforms.device)
        mel_lengths = frames.mel_lengths_from_samples(
            audio_lengths.to(torch.int64), self.hop_length, self.n_fft, self.exact_pad
        )
        with torch.amp.autocast(waveforms.device.type, enabled=False):
            mels = self._mel_spectrogram(self._prepare(waveforms, audio_lengths), window, mel_filters)
            features = self._take_logarithm(mels)  # (batch, mels, mel frames)
            return self._finish(features, mel_lengths), mel_lengths

    @torch.no_grad()
    def extract_block(
        self, samples: torch.Tensor, state: FeatureStreamState | None = None, is_last: bool = False
    ) -> tuple[torch.Tensor, FeatureStreamState]:
        """Log-mel features of a clip whose samples come in blocks, before normalisation.

        All frames together are those that `extract` has for the whole clip at that stage, to the last bit and with
        the masked frame behind them: the transform goes over the same stretches.

        Args:
            samples: (samples,) float32, the next ones of the clip; there may be none.
            state: What the call for the block before returned; None at the start of the clip.
            is_last: Whether the clip ends here.

        Returns:
            (mels, mel frames) that are ready, which may be none, and the state for the block that follows. After the
            last one `mel_length(state.num_samples)` frames of the clip count.
        """
        if samples.ndim != 1 or samples.dtype != torch.float32:
            raise ValueError(
                f"samples has shape {tuple(samples.shape)} and type {samples.dtype}; expected (samples,), "
                "torch.float32."
            )
        padding_samples = frames.stft_padding_samples(self.n_fft, self.hop_length, self.exact_pad)
        if state is None:
            state = FeatureStreamState(samples.new_zeros(1, padding_samples), samples.new_zeros(1, 0), 0)
        # The sample before goes in again: it is what pre-emphasis takes a share of.
        known_samples = state.last_sample.shape[1]
        block = torch.cat([state.last_sample, samples[None]], dim=1)
        num_samples = state.num_samples + samples.shape[0]
        parts = [state.waiting, self._emphasize(block)[:, known_samples:]]
        if is_last:
            parts.append(samples.new_zeros(1, padding_samples))
        waiting = torch.cat(parts, dim=1)
        if is_last:
            if self.preemphasis is not None:
                kept_samples = waiting.shape[1] - padding_samples - self._cut_samples()
                waiting[:, max(kept_samples, 0) :] = 0.0
            waiting = torch.nn.functional.pad(waiting, (0, max(self.n_fft - waiting.shape[1], 0)))
        window, mel_filters = self._constants_on(waiting.device)
        log_mels = [samples.new_empty(self.output_size, 0)]
        done_frames = 0
        with torch.amp.autocast(waiting.device.type, enabled=False):
            for first, end in _stretches((waiting.shape[1] - self.n_fft) // self.hop_length + 1, is_last):
                stretch = waiting[:, first * self.hop_length : (end - 1) * self.hop_length + self.n_fft]
                mels = torch.matmul(mel_filters, self._magnitudes(stretch, window))  # (1, mels, mel frames)
                log_mels.append(self._take_logarithm(mels)[0])
                done_frames = end
        waiting = waiting[:, done_frames * self.hop_length :].clone()  # not a view: it would keep what is done
        return torch.cat(log_mels, dim=1), FeatureStreamState(waiting, block[:, -1:].clone(), num_samples)

    def mel_length(self, num_samples: int) -> int:
        """Valid mel frames of a clip."""
        return frames.mel_lengths_from_samples(num_samples, self.hop_length, self.n_fft, self.exact_pad)

    def finish_clip(self, log_mels: torch.Tensor, mel_length: int) -> torch.Tensor:
        """What all blocks of a clip give, (mels, mel frames), to its features as `extract` has them.

        Returns:
            (mel frames, mels), masked frames behind the `mel_length` that count.
        """
        mel_lengths = torch.tensor([mel_length])
        if self.normalize == "all_features":
            return self._finish(log_mels[None], mel_lengths)[0]
        num_frames = frames.padded_mel_frames(log_mels.shape[1], self.pad_to)
        features = log_mels.new_empty(num_frames, log_mels.shape[0])
        for first in range(0, log_mels.shape[0], MELS_AT_ONCE):
            chosen = slice(first, first + MELS_AT_ONCE)
            features[:, chosen] = self._finish(log_mels[None, chosen], mel_lengths)[0]
        return features

    def normalize_block(self, log_mels: torch.Tensor, statistics: FeatureStatistics) -> torch.Tensor:
        """What a block of a clip gives, (mels, mel frames), to features, by the statistics of the whole clip.

        They differ from those of `finish_clip` by rounding: sums are in float64 here.

        Returns:
            (mel frames, mels)
        """
        if self.normalize is None:
            return log_mels.transpose(0, 1).contiguous()
        means, squares, count = statistics.means, statistics.squares, statistics.num_frames
        if self.normalize == "all_features":
            mean = means.mean()
            squares = (squares + (means - mean).square() * count).sum()
            means, count = mean, count * log_mels.shape[0]
        deviations = (squares / (count - 1)).sqrt() if count > 1 else torch.zeros_like(squares)
        centred = log_mels - means.float().reshape(-1, 1)
        return _scale(centred, deviations.float().reshape(-1, 1)).transpose(0, 1).contiguous()

    def _finish(self, features: torch.Tensor, mel_lengths: torch.Tensor) -> torch.Tensor:
        """Normalisation, masked frames and their number: (batch, mels, mel frames) to (batch, mel frames, mels)."""
        is_valid = torch.arange(features.shape[2], device=features.device) < mel_lengths[:, None]
        if self.normalize == "per_feature":
            features = _normalize_per_feature(features, is_valid, mel_lengths)
        elif self.normalize == "all_features":
            features = _normalize_all_features(features, mel_lengths.tolist())
        features = features.masked_fill(~is_valid[:, None, :], self.padding_value)
        missing_frames = frames.padded_mel_frames(features.shape[2], self.pad_to) - features.shape[2]
        if missing_frames:
            features = torch.nn.functional.pad(features, (0, missing_frames), value=self.padding_value)
        return features.transpose(1, 2).contiguous()  # (batch, mel frames, mels)

    def _extract_batch(
        self, clips: list[torch.Tensor], lengths: list[int], device: torch.device, first_index: int
    ) -> dict[str, torch.Tensor]:
        """Pad the clips with zeros to the longest tensor (not the longest clip), check them and extract."""
        waveforms = torch.zeros(len(clips), max(clip.shape[0] for clip in clips), dtype=torch.float32, device=device)
        for row, clip, length in zip(waveforms, clips, lengths, strict=True):
            row[:length] = clip[:length]
        _check_finite(waveforms, first_index)
        features, mel_lengths = self.extract(waveforms, torch.tensor(lengths, device=device))
        attention_mask = torch.arange(features.shape[1], device=device) < mel_lengths[:, None]
        return {"input_features": features, "attention_mask": attention_mask, "input_lengths": mel_lengths}

    def _prepare(self, waveforms: torch.Tensor, audio_lengths: torch.Tensor) -> torch.Tensor:
        """Pre-emphasis, with NeMo's zeroing of what lies beyond the length, and the zeros on both sides."""
        padding_samples = frames.stft_padding_samples(self.n_fft, self.hop_length, self.exact_pad)
        missing_samples = max(self.n_fft - 2 * padding_samples - waveforms.shape[1], 0)
        paddings = (padding_samples, padding_samples + missing_samples)
        emphasized = self._emphasize(waveforms)
        if self.preemphasis is not None:
            kept_lengths = audio_lengths - self._cut_samples()
            positions = torch.arange(waveforms.shape[1], dtype=torch.int32, device=waveforms.device)
            emphasized.masked_fill_(positions >= kept_lengths[:, None].to(torch.int32), 0.0)
        return torch.nn.functional.pad(emphasized, paddings)

    def _emphasize(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Pre-emphasis of (batch, samples); the first sample has none before it."""
        if self.preemphasis is None:
            return waveforms
        emphasized = torch.empty_like(waveforms)
        emphasized[:, :1] = waveforms[:, :1]
        # Two roundings, as in NeMo: the product, then the difference.
        torch.sub(waveforms[:, 1:], waveforms[:, :-1] * self.preemphasis, out=emphasized[:, 1:])
        return emphasized

    def _cut_samples(self) -> int:
        """Samples at the end of a clip that pre-emphasis loses.

        With `exact_pad` NeMo 3.0.0 counts the length from the start of the padding, which cuts off the last samples.
        """
        return frames.stft_padding_samples(self.n_fft, self.hop_length, True) if self.exact_pad else 0

    def _mel_spectrogram(
        self, waveforms: torch.Tensor, window: torch.Tensor, mel_filters: torch.Tensor
    ) -> torch.Tensor:
        """Mels (batch, mels, mel frames) of padded samples, a stretch of frames at a time."""
        num_frames = (waveforms.shape[1] - self.n_fft) // self.hop_length + 1
        mels = waveforms.new_empty(waveforms.shape[0], mel_filters.shape[1], num_frames)
        for first, end in _stretches(num_frames, is_last=True):
            stretch = waveforms[:, first * self.hop_length : (end - 1) * self.hop_length + self.n_fft]
            torch.matmul(mel_filters, self._magnitudes(stretch, window), out=mels[:, :, first:end])
        return mels

    def _magnitudes(self, waveforms: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        """(batch, samples) to (batch, bins, mel frames)."""
        spectrum = torch.stft(
            waveforms,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            window=window,
            center=False,
            return_complex=True,
        )
        # The root is taken and squared again, because that is how NeMo rounds.
        magnitudes = torch.view_as_real(spectrum).square_().sum(dim=-1).sqrt_()
        return magnitudes if self.mag_power == 1.0 else magnitudes.pow_(self.mag_power)

    def _take_logarithm(self, mels: torch.Tensor) -> torch.Tensor:
        """The logarithm of (batch, mels, mel frames), in place, and frames spliced."""
        if self.log:
            guard = self.log_zero_guard_value
            if isinstance(guard, str):
                guard = getattr(torch.finfo(torch.float32), guard)
            mels = (mels.add_(guard) if self.log_zero_guard_type == "add" else mels.clamp_(min=guard)).log_()
        # NeMo 3.0.0 (`splice_frames`) means to put later frames beside each frame but repeats the same one.
        return mels.repeat(1, self.frame_splicing, 1) if self.frame_splicing > 1 else mels

    def _constants_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Window (win_length,) and filters (1, mels, bins), in float32; kept for every device and every setting."""
        names = ("sampling_rate", "n_fft", "win_length", "window", "feature_size", "min_frequency", "max_frequency")
        settings = tuple(getattr(self, name) for name in (*names, "mel_norm", "filterbank_dtype"))
        key = (device, *settings, id(self.mel_filters), id(self.window_values))
        constants = self._constants.get(key)
        if constants is None:
            window, mel_filters = self._make_constants()
            constants = window.to(device), mel_filters.to(device)
            self._constants[key] = constants  # one assignment: threads may both compute it, none sees half of it
        return constants

    def _make_constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.window_values is None:
            window = WINDOW_FUNCTIONS[self.window](self.win_length, periodic=False, dtype=torch.float32, device="cpu")
        else:
            window = torch.from_numpy(self.window_values)
        filters = self.mel_filters
        if filters is None:
            filters = mel_filterbank(
                self.sampling_rate,
                self.n_fft,
                self.feature_size,
                self.min_frequency,
                self.max_frequency,
                self.mel_norm,
            )
        stored_dtype = FILTERBANK_DTYPES[self.filterbank_dtype]
        mel_filters = torch.from_numpy(filters)[None]
        return window.to(stored_dtype).to(torch.float32), mel_filters.to(stored_dtype).to(torch.float32)

    def _check_sampling_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is None:
            logger.warning_once(
                f"{type(self).__name__} was not told the sampling rate of the audio and takes it for "
                f"{self.sampling_rate} Hz; pass sampling_rate to have it checked."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate={sampling_rate} does not fit: the model expects {self.sampling_rate} Hz. "
                f"Resample the audio first (read_audio(..., sampling_rate={self.sampling_rate}) does for files)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Everything that the constructor takes; `mel_filters` and `window_values` only where they were given."""
        output = {name: copy.deepcopy(value) for name, value in self.__dict__.items() if not name.startswith("_")}
        output["feature_extractor_type"] = type(self).__name__
        for name in ("mel_filters", "window_values"):
            values = output.pop(name)
            if values is not None:
                output[name] = values.tolist()
        return output

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constants": {}}


# Arithmetic


def _stretches(num_frames: int, is_last: bool) -> Iterator[tuple[int, int]]:
    """First mel frame, and the one behind the last, of the stretches that are transformed at a time.

    The last one has up to twice as many frames as the others, not few: a product of few columns may be rounded
    otherwise. So what is at hand is not all given while there is more to come.
    """
    first = 0
    while num_frames - first >= 2 * FRAMES_AT_ONCE:
        yield first, first + FRAMES_AT_ONCE
        first += FRAMES_AT_ONCE
    if is_last and first < num_frames:
        yield first, num_frames


def _normalize_per_feature(features: torch.Tensor, is_valid: torch.Tensor, mel_lengths: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit deviation of each mel over the valid frames; one frame alone becomes 0, as NeMo has it."""
    is_masked = ~is_valid[:, None, :]
    counts = mel_lengths[:, None].to(torch.float32)
    means = features.masked_fill(is_masked, 0.0).sum(dim=2) / counts  # (batch, mels)
    centred = (features - means[:, :, None]).masked_fill_(is_masked, 0.0)
    deviations = torch.sqrt(centred.square().sum(dim=2) / (counts - 1.0))
    return _scale(centred, deviations.masked_fill(deviations.isnan(), 0.0)[:, :, None])


def _scale(centred: torch.Tensor, deviations: torch.Tensor) -> torch.Tensor:
    """Features around 0 to those of unit deviation, in place."""
    return centred.div_(deviations + STANDARD_DEVIATION_FLOOR)


def _normalize_all_features(features: torch.Tensor, mel_lengths: list[int]) -> torch.Tensor:
    """Zero mean and unit deviation over all valid values of each clip."""
    normalized = torch.zeros_like(features)
    for clip, values, mel_length in zip(normalized, features, mel_lengths, strict=True):
        valid = values[:, :mel_length]
        if valid.numel() == 1:
            continue  # no deviation: a single value becomes 0, as in per_feature
        if valid.numel() > 1:
            clip[:, :mel_length] = _scale(valid - valid.mean(), valid.std())
    return normalized


# Input


def _clips_from(
    raw_speech: Any, has_audio_lengths: bool, channels: str | int | None
) -> tuple[list[torch.Tensor], bool]:
    """Mono float32 clips of shape (samples,), and whether there were tensors among the input."""
    if not (channels is None or channels == "mix" or (_is_integer(channels) and int(channels) >= 0)):
        raise ValueError(f"channels={channels!r} is not supported; expected 'mix' or the number of a channel.")
    if isinstance(raw_speech, (list, tuple)):
        if len(raw_speech) == 0:
            raise ValueError("raw_speech is an empty list; expected at least one clip.")
        first = raw_speech[0]
        if isinstance(first, numbers.Number) or (hasattr(first, "ndim") and first.ndim == 0):
            raw_speech = np.asarray(raw_speech)
    if isinstance(raw_speech, (list, tuple)):
        holds_tensors = any(isinstance(item, torch.Tensor) for item in raw_speech)
        clips = [_as_floating_tensor(item, index) for index, item in enumerate(raw_speech)]
        return [_as_mono(clip, index, channels) for index, clip in enumerate(clips)], holds_tensors
    holds_tensors = isinstance(raw_speech, torch.Tensor)
    speech = _as_floating_tensor(raw_speech, None)
    if speech.ndim == 3:
        return [_as_mono(clip, index, channels) for index, clip in enumerate(speech)], holds_tensors
    if speech.ndim != 2:
        return [_as_mono(speech, 0, channels)], holds_tensors
    if has_audio_lengths:
        _require(channels in (None, "mix", 0), "channels", channels, "no channel of a mono batch but 0")
        return list(speech), holds_tensors
    if channels is not None or 1 in speech.shape:
        return [_as_mono(speech, 0, channels)], holds_tensors
    raise ValueError(
        f"raw_speech of shape {tuple(speech.shape)} may be a batch or one clip with channels; expected audio_lengths "
        "with a padded batch, a list of clips, or channels='mix' (or the number of a channel) with one clip."
    )


def _as_floating_tensor(samples: Any, index: int | None) -> torch.Tensor:
    name = "raw_speech" if index is None else f"Clip {index}"
    if not isinstance(samples, (np.ndarray, torch.Tensor, Sequence)) or isinstance(samples, (str, bytes)):
        raise ValueError(
            f"{name} is of type {type(samples).__name__}; expected an array, a tensor or a list of floats "
            "(read_audio reads files)."
        )
    if not isinstance(samples, torch.Tensor):
        try:
            array = np.asarray(samples)
        except ValueError as error:
            raise ValueError(f"{name} has rows of different lengths; expected one clip of samples.") from error
        if array.size and array.dtype.kind != "f":
            raise ValueError(
                _not_floating_message(name, str(array.dtype), array.dtype.kind == "i", array.itemsize * 8)
            )
        array = np.ascontiguousarray(array, dtype=np.float32)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    if samples.numel() and not samples.is_floating_point():
        is_integer = not samples.is_complex() and samples.dtype not in (torch.bool, torch.uint8)
        raise ValueError(_not_floating_message(name, str(samples.dtype), is_integer, samples.element_size() * 8))
    return samples.detach().to(torch.float32)


def _not_floating_message(name: str, dtype: str, is_signed_integer: bool, bits: int) -> str:
    message = f"{name} has samples of type {dtype}; expected floating-point samples in [-1, 1]."
    if is_signed_integer:
        # A list of Python integers arrives as int64, but recordings have 16 bits.
        message += (
            f" Divide integer samples by the full scale first: {2 ** (min(bits, 32) - 1)} for {min(bits, 32)} bits"
        )
        message += "." if bits == 16 else ", 32768 for 16 bits."
    return message


def _as_mono(clip: torch.Tensor, index: int, channels: str | int | None) -> torch.Tensor:
    """(samples,), (samples, channels) or (channels, samples) to (samples,): the longer side is time."""
    if clip.ndim == 1:
        _require(channels in (None, "mix", 0), "channels", channels, f"0 for clip {index}, which is mono")
        return clip
    if clip.ndim != 2:
        raise ValueError(f"Clip {index} has shape {tuple(clip.shape)}; expected (samples,) or samples and channels.")
    num_channels, num_samples = sorted(clip.shape)
    if num_channels == num_samples > 1:
        raise ValueError(
            f"Clip {index} has shape {tuple(clip.shape)}: which side is time cannot be told; expected (samples,)."
        )
    if num_channels > MOST_CHANNELS:
        raise ValueError(
            f"Clip {index} has shape {tuple(clip.shape)}, that is {num_channels} channels; expected samples, with at "
            f"most {MOST_CHANNELS} channels."
        )
    if clip.shape[0] != num_channels:
        clip = clip.transpose(0, 1)  # (channels, samples)
    if isinstance(channels, int):
        if channels >= num_channels:
            raise ValueError(f"channels={channels} does not exist in clip {index}; it has {num_channels} channel(s).")
        return clip[channels]
    return clip.mean(dim=0) if num_channels > 1 else clip.reshape(-1)


def _lengths_from(audio_lengths: Any, clips: list[torch.Tensor]) -> list[int]:
    sizes = [clip.shape[0] for clip in clips]
    if audio_lengths is None:
        lengths = sizes
    else:
        given = audio_lengths.cpu().numpy() if isinstance(audio_lengths, torch.Tensor) else np.asarray(audio_lengths)
        if given.dtype.kind not in "iu":
            raise ValueError(f"audio_lengths has values of type {given.dtype}; expected integers, in samples.")
        if given.shape != (len(clips),):
            raise ValueError(f"audio_lengths has shape {given.shape}; expected ({len(clips)},), one for each clip.")
        lengths = given.tolist()
    for index, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
        if length < 0 or length > size:
            raise ValueError(f"audio_lengths[{index}]={length} is not supported; expected 1 to {size} samples.")
        if length == 0:
            raise ValueError(f"Clip {index} is empty (0 samples); expected at least one sample.")
    return lengths


def _check_finite(waveforms: torch.Tensor, first_index: int) -> None:
    is_finite = torch.isfinite(waveforms)
    if not bool(is_finite.all()):
        row, position = torch.nonzero(~is_finite)[0].tolist()
        value = waveforms[row, position].item()
        raise ValueError(
            f"Clip {first_index + row} has the value {value} at sample {position}; expected finite samples."
        )


def _as(tensor: torch.Tensor, tensor_type: str) -> Any:
    return tensor if tensor_type == "pt" else tensor.cpu().numpy()


# Validation


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r} is not supported; expected {expected}.")


def _require_positive_integer(name: str, value: object) -> None:
    _require(_is_integer(value) and value > 0, name, value, "a positive integer")  # type: ignore[operator]


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _override(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Given filters or window as a float32 array of its own, checked."""
    if values is None:
        return None
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    array = np.array(values, dtype=np.float32)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} has shape {array.shape}; expected finite values of shape {shape}.")
    return array
