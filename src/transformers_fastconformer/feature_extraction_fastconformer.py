"""The feature extractor in Hugging Face's form: raw speech to (normalised) log-mel features."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from .audio.clips import pad_clips, read_clips
from .audio.feature_stream import FeatureStream
from .audio.log_mel import LogMel
from .audio.log_mel_settings import LogMelSettings
from .audio.running_normalization import RunningNormalization
from .checkpoint_sources import LoadsFromSources
from .kernels.forks import survive_forks
from .validation import is_integer, reading, require, require_choice, require_count

logger = logging.get_logger(__name__)

# What transformers writes into a preprocessor_config.json, or passes, next to our own arguments.
BOOKKEEPING_KEYS = {"feature_extractor_type", "processor_class", "auto_map", "_processor_class"}
# Largest values, more than ten times those of the published checkpoints: one that declares more is refused before
# anything of that size is made.
MAX_VALUES = {
    "feature_size": 1024,
    "sampling_rate": 10**6,
    "hop_length": 2**16,
    "win_length": 2**14,
    "n_fft": 2**14,
    "pad_to": 4096,
    "frame_splicing": 64,
}
PADDINGS = (True, "longest", "max_length", False, "do_not_pad")
TENSOR_TYPES = (None, "pt", "np")


class FastConformerFeatureExtractor(LoadsFromSources, SequenceFeatureExtractor):
    r"""
    Constructs a FastConformer feature extractor: raw speech to (normalised) log-mel features.

    On a CPU the features are bit-equal to those of NeMo 3.0.0's `AudioToMelSpectrogramPreprocessor` at inference for
    the same batch. Like NeMo's, the features of a clip may differ in the last bits (about 1e-6) between one batch and
    another, because sums over more columns are rounded otherwise; `padding=False` computes every clip on its own.

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
        peak_scaling (`float`, *optional*): Each clip is first multiplied by 1 / (its largest sample + this number), as
            NeMo's offline Sortformer models do with 1e-3; `None`: it stays as it is.
        mel_filters (array of shape (feature_size, n_fft // 2 + 1), *optional*): In place of the computed filters.
        window_values (array of shape (win_length,), *optional*): In place of the computed window.

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
        peak_scaling: float | None = None,
        mel_filters: Any = None,
        window_values: Any = None,
        **kwargs: Any,
    ) -> None:
        for name, only in (("padding_side", "right"), ("return_attention_mask", True)):
            value = kwargs.pop(name, only)
            require(value == only, name, value, repr(only))
        unknown = sorted(set(kwargs) - BOOKKEEPING_KEYS)
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not an argument of {type(self).__name__}.")
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
        self.peak_scaling = peak_scaling
        require_count("win_length", win_length)
        self._check_limits(n_fft)
        self.n_fft = 2 ** math.ceil(math.log2(win_length)) if n_fft is None else n_fft
        settings = self._settings()
        num_bins = settings.n_fft // 2 + 1
        self.mel_filters = _given_array("mel_filters", mel_filters, (settings.feature_size, num_bins))
        self.window_values = _given_array("window_values", window_values, (settings.win_length,))
        self._log_mel: LogMel | None = None

    def _check_limits(self, n_fft: Any) -> None:
        for name, limit in MAX_VALUES.items():
            value = n_fft if name == "n_fft" else getattr(self, name)
            require(not is_integer(value) or value <= limit, name, value, f"an integer of at most {limit}")

    def _settings(self) -> LogMelSettings:
        return LogMelSettings(**{field.name: getattr(self, field.name) for field in fields(LogMelSettings)})

    @property
    def log_mel(self) -> LogMel:
        """The computation on tensors, by the settings as they are now."""
        survive_forks()
        settings, log_mel = self._settings(), self._log_mel
        if (
            log_mel is None
            or log_mel.settings != settings
            or log_mel.mel_filters is not self.mel_filters
            or log_mel.window_values is not self.window_values
        ):
            log_mel = LogMel(settings, self.mel_filters, self.window_values)
            self._log_mel = log_mel  # one assignment: threads may both make it, none sees half of it
        return log_mel

    @property
    def output_size(self) -> int:
        """Features of a frame that come out: `feature_size`, times `frame_splicing`."""
        return self._settings().output_size

    def open_stream(
        self,
        sampling_rate: int | None = None,
        channels: str | int | None = None,
        normalization: RunningNormalization | None = None,
        name: str = "stream",
    ) -> FeatureStream:
        """
        Features of live audio, which comes in pieces of any size: a [`FeatureStream`], with these arguments of it.

        Without normalisation they are those of the whole audio to the last bit; that over whole clips is approximated.
        """
        return FeatureStream(self.log_mel, sampling_rate, channels, normalization, name)

    def __call__(
        self,
        raw_speech: Any,
        audio_lengths: Any = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        device: str | torch.device | None = None,
        channels: str | int | None = None,
        truncation: bool | None = None,
        return_attention_mask: bool | None = None,
        max_length: int | None = None,
    ) -> BatchFeature:
        r"""
        Args:
            raw_speech: Floating-point samples in [-1, 1], as arrays, tensors or lists of floats; arrays and tensors
                may hold 16-bit integers, and come in a pair after their rate, which must be the model's:

                - one dimension: one clip;
                - a list: one clip an item. An item of two dimensions is a clip with channels, in either order: the
                  longer side is time. More than two channels need `channels`;
                - two dimensions (batch, samples) **with** `audio_lengths`: a padded batch;
                - two dimensions with `channels` and without `audio_lengths`: one clip with channels. With neither, an
                  array of two dimensions could be a batch or stereo and is refused, unless one side is 1;
                - three dimensions: a batch of clips with channels.
            audio_lengths (integers of shape (batch,), *optional*): Valid samples of each clip; samples beyond count
                for nothing.
            sampling_rate (`int`, *optional*): Rate of `raw_speech`; it must be the model's.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`; `None`: tensors if `raw_speech` holds tensors or
                `device` is given, else arrays.
            padding (`bool` or `str`, defaults to `True`): `True` or `"longest"` pads to the longest clip,
                `"max_length"` pads the waveforms to `max_length` samples; `False` or
                `"do_not_pad"` computes each clip on its own and gives lists, or with `return_tensors` tensors where
                all clips have equally many frames.
            device (`str` or `torch.device`, *optional*): Device that computes; tensors stay there. `None`: where the
                tensors of `raw_speech` are, else the CPU.
            channels (`str` or `int`, *optional*): `"mix"` (and `None`) averages the channels of a clip, a number
                takes that one.
            truncation (`bool`, *optional*, defaults to `False`): Cut clips after `max_length` samples.
            return_attention_mask (`bool`, *optional*): The mask is always returned; `False` is not accepted.
            max_length (`int`, *optional*): Samples of a clip at most, for `truncation` or `padding="max_length"`.

        Returns:
            [`BatchFeature`]: `input_features` (batch, mel frames, mels) float32; `attention_mask` (batch, mel frames)
            bool, True for valid frames; `input_lengths` (batch,) int64, valid mel frames. A clip of N samples has
            N // hop_length valid frames and at least one masked frame after them. Clips under one hop have none.
        """
        self._check_sampling_rate(sampling_rate)
        require_choice("truncation", truncation, (None, True, False))
        require_choice("return_attention_mask", return_attention_mask, (None, True))
        require_choice("return_tensors", return_tensors, TENSOR_TYPES)
        require_choice("padding", padding, PADDINGS)
        is_max_length = padding == "max_length"
        if max_length is None:
            require(not truncation, "truncation", truncation, "False without a max_length, in samples")
            require(not is_max_length, "padding", padding, "True or False without a max_length, in samples")
        else:
            require_count("max_length", max_length)
            is_used = truncation or is_max_length
            require(bool(is_used), "max_length", max_length, "None without truncation=True or padding='max_length'")
        waveforms, lengths, holds_tensors = read_clips(raw_speech, audio_lengths, channels, self.sampling_rate)
        if max_length is not None:
            waveforms, lengths = _fit(waveforms, lengths, max_length, bool(truncation), is_max_length)
        tensor_type = return_tensors or ("pt" if holds_tensors or device is not None else "np")
        if device is None:
            device = waveforms[0].device if holds_tensors else "cpu"
        device = torch.device(device)
        if padding in (True, "longest", "max_length"):
            outputs = self._extract_batch(waveforms, lengths, device)
            return BatchFeature({name: _as(tensor, tensor_type) for name, tensor in outputs.items()})
        singles = [
            self._extract_batch([waveform[:length]], [length], device, first_index=index)
            for index, (waveform, length) in enumerate(zip(waveforms, lengths, strict=True))
        ]
        if return_tensors is None:
            return BatchFeature(_as_lists(singles, tensor_type))
        mel_frames = sorted({single["input_features"].shape[1] for single in singles})
        if len(mel_frames) > 1:
            raise ValueError(
                f"return_tensors={return_tensors!r} needs clips of equally many mel frames, but there are clips of "
                f"{mel_frames[0]} to {mel_frames[-1]}; expected padding=True, or return_tensors=None for lists."
            )
        return BatchFeature({name: _as(_join(singles, name), tensor_type) for name in singles[0]})

    def _extract_batch(
        self, waveforms: Sequence[torch.Tensor], lengths: Sequence[int], device: torch.device, first_index: int = 0
    ) -> dict[str, torch.Tensor]:
        """Features, mask and lengths of clips together; `first_index` is the number of the first one."""
        batch = pad_clips(waveforms, lengths, device, first_index)
        features, mel_lengths = self.log_mel.extract(batch, torch.tensor(lengths, dtype=torch.int64, device=device))
        attention_mask = torch.arange(features.shape[1], device=device) < mel_lengths[:, None]
        return {"input_features": features, "attention_mask": attention_mask, "input_lengths": mel_lengths}

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
        """All arguments of the constructor; `mel_filters` and `window_values` only where they were given."""
        output = {name: copy.deepcopy(value) for name, value in self.__dict__.items() if not name.startswith("_")}
        output["feature_extractor_type"] = type(self).__name__
        for name in ("mel_filters", "window_values"):
            values = output.pop(name)
            if values is not None:
                output[name] = values.tolist()
        return output

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_log_mel": None}


def _fit(
    waveforms: Sequence[torch.Tensor], lengths: Sequence[int], max_length: int, is_cut: bool, is_filled: bool
) -> tuple[list[torch.Tensor], list[int]]:
    """Clips cut after `max_length` samples, or filled up with zeros that do not count, or both."""
    if is_cut:
        lengths = [min(length, max_length) for length in lengths]
    elif max(lengths) > max_length:
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        raise ValueError(
            f"Clip {longest} has {lengths[longest]} samples; expected max_length={max_length} at most, or "
            "truncation=True."
        )
    cut = [waveform[:length] for waveform, length in zip(waveforms, lengths, strict=True)]
    if is_filled:
        cut[0] = torch.nn.functional.pad(cut[0], (0, max_length - cut[0].shape[0]))  # the batch is as long as one clip
    return cut, list(lengths)


def _as(tensor: torch.Tensor, tensor_type: str) -> Any:
    return tensor if tensor_type == "pt" else tensor.cpu().numpy()


def _join(singles: Sequence[dict[str, torch.Tensor]], name: str) -> torch.Tensor:
    return torch.cat([single[name] for single in singles])


def _as_lists(singles: Sequence[dict[str, torch.Tensor]], tensor_type: str) -> dict[str, Any]:
    """Features and masks of clips of different lengths, an entry each; lengths in one."""
    data: dict[str, Any] = {
        name: [_as(single[name][0], tensor_type) for single in singles]
        for name in ("input_features", "attention_mask")
    }
    data["input_lengths"] = _as(_join(singles, "input_lengths"), tensor_type)
    return data


def _given_array(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Given filters or window as a float32 array of its own, checked."""
    if values is None:
        return None
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    with reading(name, f"finite values of shape {shape}"):
        array = np.array(values, dtype=np.float32)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} has shape {array.shape}; expected finite values of shape {shape}.")
    return array
