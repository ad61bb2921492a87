"""Length and time arithmetic, in integers: samples, mel frames, encoder frames, seconds.

The one owner of these facts. Every function takes an `int` or an integer tensor of any shape and returns the same
kind; torch is not imported. Lengths count what is valid in a clip, frames count the rows of a tensor: a tensor has
one mel frame more than its longest clip is long, and more with `pad_to` (see `padded_mel_frames`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Lengths = TypeVar("Lengths", int, "Tensor")


# Samples and mel frames


def stft_padding_samples(fft_samples: int, hop_samples: int, exact_pad: bool = False) -> int:
    """Zeros before and after the samples: half an FFT, or with `exact_pad` half of what exceeds the hop."""
    return (fft_samples - hop_samples) // 2 if exact_pad else fft_samples // 2


def mel_lengths_from_samples(
    audio_lengths: Lengths, hop_samples: int, fft_samples: int, exact_pad: bool = False
) -> Lengths:
    """Valid mel frames of clips of `audio_lengths` samples: `N // hop` for an even FFT.

    `exact_pad` gives one frame fewer, which is what NeMo 3.0.0 counts (`FilterbankFeatures.get_seq_len`). Clips under
    one hop have none; where NeMo would count -1 the result is 0.
    """
    padding_samples = 2 * stft_padding_samples(fft_samples, hop_samples, exact_pad)
    mel_lengths = (audio_lengths + padding_samples - fft_samples) // hop_samples
    return mel_lengths * (mel_lengths > 0)


def padded_mel_frames(mel_frames: int, pad_to: int) -> int:
    """`mel_frames` rounded up to a multiple of `pad_to`; 0 leaves them alone."""
    return mel_frames if pad_to <= 0 else -(-mel_frames // pad_to) * pad_to


def resampled_samples(samples: int, from_sampling_rate: int, to_sampling_rate: int) -> int:
    """Samples after resampling: the same duration, rounded up."""
    return -(-samples * to_sampling_rate // from_sampling_rate)


# Mel frames and encoder frames


def convolution_lengths(
    lengths: Lengths,
    kernel_size: int,
    stride: int,
    left_padding: int = 0,
    right_padding: int = 0,
    repeats: int = 1,
) -> Lengths:
    """Output lengths of `repeats` equal convolutions or poolings in a row (those of NeMo's `calc_length`, floored)."""
    for _ in range(repeats):
        lengths = (lengths + (left_padding + right_padding - kernel_size)) // stride + 1
    return lengths


def halvings(factor: int) -> int:
    """How many layers of stride 2 make up `factor`, a power of 2."""
    if factor < 1 or factor & (factor - 1):
        raise ValueError(f"factor={factor} is not supported; expected a power of 2.")
    return factor.bit_length() - 1


def subsampling_padding(kernel_size: int, stride: int, is_causal: bool) -> tuple[int, int]:
    """Left and right padding of a subsampling convolution, in time and on the mel axis alike."""
    if is_causal:
        return kernel_size - 1, stride - 1
    return (kernel_size - 1) // 2, (kernel_size - 1) // 2


def subsampled_lengths(
    mel_lengths: Lengths,
    subsampling_type: str,
    subsampling_factor: int,
    is_causal: bool = False,
    padded_frames: int | None = None,
    kernel_size: int = 3,
    stride: int = 2,
) -> Lengths:
    """Encoder frames after the front of the encoder. Also says how many mel columns its convolutions leave.

    `"dw_striding"` and `"striding"` are layers of stride 2; `"stacking"` and `"stacking_norm"` put
    `subsampling_factor` frames side by side; `"none"` keeps the frames.

    For stacking, NeMo 3.0.0 counts the padding of the tensor (`padded_frames` rows before it is filled up to a
    multiple of the factor) as part of every clip, so that the length of a clip depends on its batch. Without
    `padded_frames` the length is that of the clip alone, `mel_length // factor`: a clip alone always has a masked
    frame behind it, so the last stack is never full of its own frames.
    """
    if subsampling_type in ("dw_striding", "striding"):
        left_padding, right_padding = subsampling_padding(kernel_size, stride, is_causal)
        repeats = halvings(subsampling_factor)
        return convolution_lengths(mel_lengths, kernel_size, stride, left_padding, right_padding, repeats)
    if subsampling_type in ("stacking", "stacking_norm"):
        filling = 0 if padded_frames is None else -padded_frames % subsampling_factor
        return (mel_lengths + filling) // subsampling_factor
    if subsampling_type == "none":
        return mel_lengths
    raise ValueError(
        f"subsampling_type={subsampling_type!r} is not supported; expected 'dw_striding', 'striding', 'stacking', "
        "'stacking_norm' or 'none'."
    )


def reduced_lengths(encoder_lengths: Lengths, reduction_type: str | None, reduction_factor: int) -> Lengths:
    """Valid encoder frames after the reduction among the blocks.

    Pooling by 4 or more: NeMo 3.0.0 (`SubsamplingReductionModule`) divides the lengths by the factor log2(factor)
    times, though the tensor is divided once. Models were trained so, hence it is kept; `reduced_frames` has the rows.
    """
    if reduction_type is None or reduction_factor == 1:
        return encoder_lengths
    repeats = halvings(reduction_factor)
    if reduction_type == "pooling":
        return convolution_lengths(encoder_lengths, reduction_factor, reduction_factor, repeats=repeats)
    if reduction_type == "striding":
        return convolution_lengths(encoder_lengths, 3, 2, 1, 1, repeats)
    raise ValueError(f"reduction_type={reduction_type!r} is not supported; expected 'pooling', 'striding' or None.")


def reduced_frames(encoder_frames: int, reduction_type: str | None, reduction_factor: int) -> int:
    """Rows of the tensor after the reduction among the blocks."""
    if reduction_type == "pooling":
        return encoder_frames // reduction_factor
    return reduced_lengths(encoder_frames, reduction_type, reduction_factor)


# Encoder frames and time


def samples_from_encoder_frames(encoder_frames: Lengths, hop_samples: int, total_subsampling_factor: int) -> Lengths:
    """Sample at which encoder frame `encoder_frames` begins."""
    return encoder_frames * (hop_samples * total_subsampling_factor)


def seconds_from_encoder_frames(
    encoder_frames: Lengths, hop_samples: int, sampling_rate: int, total_subsampling_factor: int
) -> float | Tensor:
    """Start in seconds of encoder frame `encoder_frames`; a tensor gives float64.

    The only place where frames become floats. The factors are multiplied in the order of NeMo 3.0.0
    (frame x stride in seconds x subsampling), so that the floats are its own to the last bit.
    """
    frames = encoder_frames if isinstance(encoder_frames, int) else encoder_frames.double()
    return frames * (hop_samples / sampling_rate) * total_subsampling_factor


def seconds_from_samples(samples: int, sampling_rate: int) -> float:
    """Duration of `samples`."""
    return samples / sampling_rate
