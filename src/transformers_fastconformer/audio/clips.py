"""
Arrays, tensors and lists to mono clips of floats: one rule for feature extractor, `load_waveform` and pipeline.

An array that is one clip has the shape (samples,), or two dimensions with the channels in either place: the longer
side is time. More than two channels are taken only where `channels` is given, since they may be a batch; a batch is a
list of clips. The feature extractor also takes batches as arrays, see `read_clips`.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..validation import is_integer, require

# More channels than that in an array without a known layout may be a batch.
MAX_UNNAMED_CHANNELS = 2
# Full scale of integers of 32 bits: larger values are no samples of whatever scale.
MAX_MAGNITUDE = float(2**31)
INT16_FULL_SCALE = 32768
# More channels than any recording has, which `channels` does not make a clip either.
MAX_CHANNELS = 32


class Clips(NamedTuple):
    """
    Mono clips.

    Args:
        waveforms: (samples,) of each, float32.
        lengths: Samples of each that count.
        holds_tensors: There were tensors among the input.
    """

    waveforms: list[torch.Tensor]
    lengths: list[int]
    holds_tensors: bool


def read_clips(
    raw_speech: Any, audio_lengths: Any = None, channels: str | int | None = None, sampling_rate: int | None = None
) -> Clips:
    """
    Clips of whatever a batch may come as.

    Args:
        raw_speech: A clip as in `mono_clip`; a list of clips; a padded batch of shape (batch, samples), for which
            `audio_lengths` is needed; a batch of clips with channels, of three dimensions. Two dimensions without
            `audio_lengths` or `channels` may be a batch or a clip and are refused, unless one side is 1.
        audio_lengths: (batch,), samples of each clip that count; None: all.
        channels: `"mix"` for the mean of the channels, or the number of one.
        sampling_rate: Rate that a clip must have which comes as a pair of its rate and its samples, in Hz.

    Raises:
        ValueError: for anything else, by the name `raw_speech` or the number of the clip, and for an empty clip.
    """
    if channels is not None:
        check_channels(channels)
    if is_rate_and_samples(raw_speech):
        raw_speech = [raw_speech]
    is_list = isinstance(raw_speech, (list, tuple))
    if is_list and len(raw_speech) == 0:
        raise ValueError("raw_speech is an empty list; expected at least one clip.")
    if is_list and not _is_scalar(raw_speech[0]):
        raw_speech = [_samples_of(item, _name(index), sampling_rate) for index, item in enumerate(raw_speech)]
        holds_tensors = any(isinstance(item, torch.Tensor) for item in raw_speech)
        waveforms = [mono_clip(item, _name(index), channels) for index, item in enumerate(raw_speech)]
    else:
        holds_tensors = isinstance(raw_speech, torch.Tensor)
        waveforms = _split_batch(read_samples(raw_speech, "raw_speech"), audio_lengths is not None, channels)
    return Clips(waveforms, _read_lengths(audio_lengths, waveforms), holds_tensors)


def mono_clip(samples: Any, name: str, channels: str | int | None = None) -> torch.Tensor:
    """
    Samples of one clip, (samples,) float32.

    Args:
        samples: (samples,), (samples, channels) or (channels, samples): an array or a tensor of floats or of 16-bit
            integers, or lists of floats.
        name: What to call the clip in messages.
        channels: `"mix"` and None average the channels, a number takes that one.

    Raises:
        ValueError: for samples that are neither floating-point numbers nor 16-bit integers, and for a shape
            that may not be a clip.
    """
    if channels is not None:
        check_channels(channels)
    clip = read_samples(samples, name)
    if clip.ndim == 1:
        require(channels in (None, "mix", 0), "channels", channels, f"0 for {name}, which is mono")
        return clip
    shape = tuple(clip.shape)
    if clip.ndim != 2:
        raise ValueError(f"{name} has shape {shape}; expected (samples,), or two dimensions, samples and channels.")
    num_channels, num_samples = sorted(shape)
    if num_channels == num_samples > 1:
        raise ValueError(f"{name} has shape {shape}: which side is time cannot be told; expected (samples,).")
    most_channels = MAX_UNNAMED_CHANNELS if channels is None else MAX_CHANNELS
    if num_channels > most_channels:
        raise ValueError(
            f"{name} has shape {shape}; expected (samples,), or two dimensions of which one is at most "
            f"{most_channels} channels (the feature extractor takes up to {MAX_CHANNELS} with channels='mix' or a "
            "number). A batch is a list of clips."
        )
    by_channel = clip if shape[0] == num_channels else clip.transpose(0, 1)  # (channels, samples)
    if isinstance(channels, numbers.Integral):
        check_has_channel(channels, num_channels, name)
        return by_channel[int(channels)]
    return by_channel.mean(dim=0) if num_channels > 1 else by_channel.reshape(-1)


def is_rate_and_samples(audio: Any) -> bool:
    """True for a pair of a sampling rate and samples, as Gradio's audio component gives it."""
    if not isinstance(audio, tuple) or len(audio) != 2:
        return False
    is_rate = is_integer(audio[0]) or (getattr(audio[0], "ndim", None) == 0 and hasattr(audio[0], "item"))
    return is_rate and isinstance(audio[1], (np.ndarray, torch.Tensor)) and audio[1].ndim > 0


def check_channels(channels: str | int) -> None:
    """Raise a `ValueError` for what does not say which channels of a clip are wanted."""
    is_accepted = channels == "mix" or (is_integer(channels) and int(channels) >= 0)
    require(is_accepted, "channels", channels, "'mix' or the number of a channel, from 0")


def check_has_channel(channel: Any, num_channels: int, name: str) -> None:
    """Raise a `ValueError` for the number of a channel that a clip does not have."""
    if not 0 <= int(channel) < num_channels:
        raise ValueError(f"channels={channel} of {name} does not exist; it has channels 0 to {num_channels - 1}.")


def take_channels(samples: np.ndarray, channels: str | int, name: str) -> np.ndarray:
    """
    Mono samples of a recording whose layout is known, however many channels it has.

    Args:
        samples: (samples, channels), float32.
        channels: `"mix"` averages the channels, a number takes that one.
        name: What to call the recording in messages.

    Returns:
        (samples,)
    """
    if channels != "mix":
        check_has_channel(channels, samples.shape[1], name)
        return samples[:, int(channels)]
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def read_samples(samples: Any, name: str) -> torch.Tensor:
    """
    Samples of any shape as a float32 tensor, where a tensor stays on its device; 16-bit integers fill [-1, 1].

    Raises:
        ValueError: for what holds neither floating-point samples nor 16-bit integers.
    """
    if not isinstance(samples, (np.ndarray, torch.Tensor, Sequence)) or isinstance(samples, (str, bytes)):
        raise ValueError(
            f"{name} is of type {type(samples).__name__}; expected an array, a tensor or a list of floats "
            "(read_audio reads files)."
        )
    if isinstance(samples, torch.Tensor):
        is_dense = samples.layout == torch.strided and not (samples.is_quantized or samples.is_nested)
        if not is_dense or samples.is_meta:
            raise ValueError(
                f"{name} is a tensor of {samples.dtype} and layout {samples.layout} on {samples.device}; expected a "
                "dense one with values."
            )
        if samples.dtype == torch.int16:
            return samples.detach().to(torch.float32) / INT16_FULL_SCALE
        if samples.numel() and not samples.is_floating_point():
            is_integers = not samples.is_complex() and samples.dtype not in (torch.bool, torch.uint8)
            raise ValueError(_not_floating_message(name, samples.dtype, is_integers, samples.element_size() * 8))
        return samples.detach().to(torch.float32)
    try:
        array = np.asarray(samples)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} has rows of different lengths; expected the samples of one clip.") from error
    if array.dtype == np.int16:
        return torch.from_numpy(array.astype(np.float32) / np.float32(INT16_FULL_SCALE))
    if array.size and array.dtype.kind != "f":
        raise ValueError(_not_floating_message(name, array.dtype, array.dtype.kind == "i", array.itemsize * 8))
    array = np.ascontiguousarray(array, dtype=np.float32)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def check_samples(waveforms: torch.Tensor, names: Sequence[str], first_sample: int = 0) -> None:
    """
    Raise a `ValueError` for the first value that is not finite, and for values that no recording has.

    Args:
        waveforms: (batch, samples).
        names: What to call each clip in messages.
        first_sample: Which sample of the clips the first one is.
    """
    is_finite = torch.isfinite(waveforms)
    if not bool(is_finite.all()):
        row, position = torch.nonzero(~is_finite)[0].tolist()
        value = waveforms[row, position].item()
        raise ValueError(
            f"{names[row]} has the value {value} at sample {first_sample + position}; expected finite samples."
        )
    if waveforms.numel():
        low, high = torch.aminmax(waveforms)
        if max(-low.item(), high.item()) > MAX_MAGNITUDE:
            peaks = waveforms.abs().amax(dim=1)
            row = int(peaks.argmax())
            raise ValueError(
                f"{names[row]} has values up to {peaks[row].item():.3g}; expected samples in [-1, 1] "
                f"(at most {MAX_MAGNITUDE:.3g})."
            )


def pad_clips(
    waveforms: Sequence[torch.Tensor], lengths: Sequence[int], device: torch.device, first_index: int = 0
) -> torch.Tensor:
    """
    Pad clips with zeros to the longest tensor, which may be longer than the longest clip, and see that all is finite.

    Args:
        waveforms: (samples,) of each clip.
        lengths: Samples that count; those beyond become 0.
        device: Where the batch goes.
        first_index: Number of the first clip, for messages.

    Returns:
        (batch, samples), float32.
    """
    longest = max(waveform.shape[0] for waveform in waveforms)
    padded = torch.zeros(len(waveforms), longest, dtype=torch.float32, device=device)
    for row, waveform, length in zip(padded, waveforms, lengths, strict=True):
        row[:length] = waveform[:length]
    check_samples(padded, [_name(first_index + index) for index in range(len(waveforms))])
    return padded


def _samples_of(audio: Any, name: str, sampling_rate: int | None) -> Any:
    """Samples of a pair of their rate and them, which are not resampled; anything else as it is."""
    if not is_rate_and_samples(audio):
        return audio
    if sampling_rate is None or int(audio[0]) != sampling_rate:
        raise ValueError(
            f"{name} has {int(audio[0])} Hz; expected {sampling_rate or 'samples without a rate'}"
            f"{' Hz' if sampling_rate else ''} (load_waveform resamples)."
        )
    return audio[1]


def _name(index: int) -> str:
    return f"Clip {index}"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, numbers.Number) or (hasattr(value, "ndim") and value.ndim == 0)


def _split_batch(speech: torch.Tensor, has_audio_lengths: bool, channels: str | int | None) -> list[torch.Tensor]:
    """Mono clips of one clip or of a batch, (samples,) each."""
    if speech.ndim == 3:
        return [mono_clip(clip, _name(index), channels) for index, clip in enumerate(speech)]
    if speech.ndim == 2 and has_audio_lengths:
        require(channels in (None, "mix", 0), "channels", channels, "no channel of a mono batch but 0")
        return list(speech)
    if speech.ndim == 2 and channels is None and 1 not in speech.shape:
        raise ValueError(
            f"raw_speech of shape {tuple(speech.shape)} may be a batch or one clip with channels; expected "
            "audio_lengths with a padded batch, a list of clips, or channels='mix' (or the number of a channel) with "
            "one clip."
        )
    return [mono_clip(speech, _name(0), channels)]


def _read_lengths(audio_lengths: Any, waveforms: Sequence[torch.Tensor]) -> list[int]:
    """Samples of each clip that count, checked."""
    sizes = [waveform.shape[0] for waveform in waveforms]
    if audio_lengths is None:
        lengths = sizes
    else:
        given = audio_lengths.cpu().numpy() if isinstance(audio_lengths, torch.Tensor) else np.asarray(audio_lengths)
        if given.dtype.kind not in "iu":
            raise ValueError(f"audio_lengths has values of type {given.dtype}; expected integers, in samples.")
        if given.shape != (len(waveforms),):
            raise ValueError(
                f"audio_lengths has shape {given.shape}; expected ({len(waveforms)},), one for each clip."
            )
        lengths = given.tolist()
    for index, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
        if length < 0 or length > size:
            raise ValueError(f"audio_lengths[{index}]={length} is not supported; expected 1 to {size} samples.")
        if length == 0:
            raise ValueError(f"{_name(index)} is empty (0 samples); expected at least one sample.")
    return lengths


def _not_floating_message(name: str, dtype: Any, is_integers: bool, bits: int) -> str:
    message = f"{name} has samples of type {dtype}; expected floating-point samples in [-1, 1] or 16-bit integers."
    if is_integers:
        # A list of Python integers arrives as int64, but recordings have 16 bits.
        bits = min(bits, 32)
        message += f" Divide other integers by their full scale first: {2 ** (bits - 1)} for {bits} bits"
        message += ", 32768 for 16 bits."
    return message
