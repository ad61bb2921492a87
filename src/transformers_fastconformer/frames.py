"""Length and time arithmetic, in integers: samples, mel frames, encoder frames, seconds.

This module is the only owner of these facts; ask a model's configuration for its numbers. All functions take an `int`
or an integer tensor of any shape and return the same kind; torch is not imported. Lengths count the valid frames of a
clip, frames and rows count those of a tensor: a tensor has at least one mel frame more than its longest clip, and more
with `pad_to` (see `padded_mel_frames`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from .validation import require, require_choice

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

    `exact_pad` gives one frame fewer, as NeMo 3.0.0 counts (`FilterbankFeatures.get_seq_len`). Clips under one hop
    have 0 frames, also where NeMo would count -1.
    """
    padding_samples = 2 * stft_padding_samples(fft_samples, hop_samples, exact_pad)
    mel_lengths = (audio_lengths + padding_samples - fft_samples) // hop_samples
    return mel_lengths * (mel_lengths > 0)


def padded_mel_frames(mel_frames: int, pad_to: int) -> int:
    """`mel_frames` rounded up to a multiple of `pad_to`; 0 leaves them as they are."""
    return mel_frames if pad_to <= 0 else -(-mel_frames // pad_to) * pad_to


def resampled_samples(samples: int, from_sampling_rate: int, to_sampling_rate: int) -> int:
    """Samples after resampling: the same duration, rounded up."""
    return -(-samples * to_sampling_rate // from_sampling_rate)


# Mel frames and encoder frames

# Kernel and stride of the convolutions in the front of the encoder; checkpoints have no others.
SUBSAMPLING_KERNEL_SIZE, SUBSAMPLING_STRIDE = 3, 2


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
    """Number of layers of stride 2 that make up `factor`, a power of 2."""
    if factor < 1 or factor & (factor - 1):
        raise ValueError(f"factor={factor} is not supported; expected a power of 2.")
    return factor.bit_length() - 1


def subsampling_padding(is_causal: bool) -> tuple[int, int]:
    """Left and right padding of a subsampling convolution, in time and on the mel axis alike."""
    if is_causal:
        return SUBSAMPLING_KERNEL_SIZE - 1, SUBSAMPLING_STRIDE - 1
    return (SUBSAMPLING_KERNEL_SIZE - 1) // 2, (SUBSAMPLING_KERNEL_SIZE - 1) // 2


@dataclass(frozen=True)
class Subsampling(ABC):
    """
    Counts of frames of a front of the encoder. A clip has frames, a tensor has rows, and some of these may be padding.

    Args:
        factor: Mel frames for each encoder frame.
        is_causal: True for a front that does not see later frames.
    """

    factor: int
    is_causal: bool = False
    # True where all rows of a clip that is a batch of its own are frames of it.
    has_full_rows: ClassVar[bool] = True
    # True where NeMo cuts the mel frames of a live stream for this front.
    can_stream: ClassVar[bool] = False
    accepted_factors: ClassVar[str] = "1 or more"

    @classmethod
    def accepts(cls, factor: int) -> bool:
        """Tell whether the front can have a factor."""
        return factor >= 1

    @abstractmethod
    def count_frames(self, mel_lengths: Lengths) -> Lengths:
        """Encoder frames of clips with these numbers of mel frames."""

    def count_rows(self, mel_frames: Lengths) -> Lengths:
        """Rows of the tensor that the front makes of one with this number of rows."""
        return self.count_frames(mel_frames)

    @property
    def first_mel_frames(self) -> int:
        """Mel frames from which a stream has its first encoder frame; `factor` more for each that follows."""
        return self.factor

    @property
    def overlap_mel_frames(self) -> int:
        """Mel frames before a chunk of a stream that the front sees again (NeMo's "pre-encode cache")."""
        return 0

    @property
    def overlap_frames(self) -> int:
        """Encoder frames that the front makes of the overlap, once more."""
        return 0


class NoSubsampling(Subsampling):
    """One encoder frame for each mel frame."""

    def count_frames(self, mel_lengths: Lengths) -> Lengths:
        return mel_lengths


class StridedSubsampling(Subsampling):
    """
    Convolutions of stride 2; the counts hold for the mel columns that they leave, too.

    Those for streams are NeMo 3.0's (`ConvSubsampling.get_sampling_frames`, `get_streaming_cache_size`).
    """

    can_stream = True
    accepted_factors = "a power of 2"

    @classmethod
    def accepts(cls, factor: int) -> bool:
        return factor >= 2 and factor & (factor - 1) == 0

    def count_frames(self, mel_lengths: Lengths) -> Lengths:
        padding = subsampling_padding(self.is_causal)
        repeats = halvings(self.factor)
        return convolution_lengths(mel_lengths, SUBSAMPLING_KERNEL_SIZE, SUBSAMPLING_STRIDE, *padding, repeats)

    @property
    def first_mel_frames(self) -> int:
        return 1

    @property
    def overlap_mel_frames(self) -> int:
        return self.factor + 1

    @property
    def overlap_frames(self) -> int:
        return 1 + (self.overlap_mel_frames - 1) // self.factor


class StackedSubsampling(Subsampling):
    """
    `factor` frames side by side; the tensor is filled up to a multiple of it.

    NeMo 3.0.0 counts the filling as part of every clip, so that the length of a clip depends on its batch. The frames
    here are those of a clip that is a batch of its own: such a clip always has a masked frame after it, so the last
    stack never holds only frames of the clip.
    """

    has_full_rows = False
    can_stream = True

    def count_frames(self, mel_lengths: Lengths) -> Lengths:
        return mel_lengths // self.factor

    def count_rows(self, mel_frames: Lengths) -> Lengths:
        return (mel_frames + self.factor - 1) // self.factor


SUBSAMPLINGS: dict[str, type[Subsampling]] = {
    "dw_striding": StridedSubsampling,
    "striding": StridedSubsampling,
    "stacking": StackedSubsampling,
    "stacking_norm": StackedSubsampling,
    "none": NoSubsampling,
}


def find_subsampling(subsampling_type: str, factor: int, is_causal: bool = False) -> Subsampling:
    """Find the counts of a front of the encoder. NeMo leaves the front out when the factor is 1, for every type."""
    require_choice("subsampling_type", subsampling_type, SUBSAMPLINGS)
    kind = SUBSAMPLINGS[subsampling_type]
    if kind is NoSubsampling or factor == 1:
        return NoSubsampling(1)
    require(kind.accepts(factor), "subsampling_factor", factor, kind.accepted_factors)
    return kind(factor, is_causal)


@dataclass(frozen=True)
class Reduction(ABC):
    """
    Counts of frames of a reduction in time among the blocks, as of [`Subsampling`].

    Args:
        factor: Frames before the reduction for each frame after it, a power of 2.
    """

    factor: int

    @property
    def is_proportional(self) -> bool:
        """True where the frames after it are a fixed share of those before it."""
        return True

    @abstractmethod
    def count_frames(self, encoder_lengths: Lengths) -> Lengths:
        """Frames after the reduction of clips with these numbers of frames before it."""

    def count_rows(self, encoder_frames: Lengths) -> Lengths:
        """Rows of the tensor that the reduction makes of one with this number of rows."""
        return self.count_frames(encoder_frames)


class NoReduction(Reduction):
    """No reduction: all frames are kept."""

    def count_frames(self, encoder_lengths: Lengths) -> Lengths:
        return encoder_lengths


class PooledReduction(Reduction):
    """
    Max-pooling.

    For a factor of 4 or more NeMo 3.0.0 (`SubsamplingReductionModule`) divides the lengths by the factor log2(factor)
    times, though the tensor is divided once. Models were trained with that, so it is kept.
    """

    @property
    def is_proportional(self) -> bool:
        return self.factor <= 2

    def count_frames(self, encoder_lengths: Lengths) -> Lengths:
        return convolution_lengths(encoder_lengths, self.factor, self.factor, repeats=halvings(self.factor))

    def count_rows(self, encoder_frames: Lengths) -> Lengths:
        return encoder_frames // self.factor


class StridedReduction(Reduction):
    """Convolutions of stride 2."""

    def count_frames(self, encoder_lengths: Lengths) -> Lengths:
        return StridedSubsampling(self.factor).count_frames(encoder_lengths)


REDUCTIONS: dict[str, type[Reduction]] = {"pooling": PooledReduction, "striding": StridedReduction}


def find_reduction(reduction_type: str | None, factor: int) -> Reduction:
    """Find the counts of a reduction among the blocks; without a type, or with a factor of 1, nothing is reduced."""
    if reduction_type is None:
        return NoReduction(1)
    require_choice("reduction_type", reduction_type, REDUCTIONS)
    return NoReduction(1) if factor == 1 else REDUCTIONS[reduction_type](factor)


# Encoder frames and time


def samples_from_encoder_frames(
    encoder_frames: Lengths, hop_samples: int, mel_frames_per_encoder_frame: int
) -> Lengths:
    """Sample at which encoder frame `encoder_frames` begins."""
    return encoder_frames * (hop_samples * mel_frames_per_encoder_frame)


def seconds_from_encoder_frames(
    encoder_frames: Lengths, hop_samples: int, sampling_rate: int, mel_frames_per_encoder_frame: int
) -> float | Tensor:
    """Start in seconds of encoder frame `encoder_frames`; a tensor gives float64.

    Frames become floats only here. The factors are multiplied in the order of NeMo 3.0.0 (frame x stride in seconds x
    subsampling), so that the floats are the same as NeMo's to the last bit.
    """
    frames = encoder_frames if isinstance(encoder_frames, int) else encoder_frames.double()
    return frames * (hop_samples / sampling_rate) * mel_frames_per_encoder_frame


def encoder_frames_from_seconds(seconds: float, frame_seconds: float) -> int:
    """The number of encoder frames that is nearest to a length."""
    return round(seconds / frame_seconds)


def seconds_from_samples(samples: int, sampling_rate: int) -> float:
    """Duration of `samples` in seconds."""
    return samples / sampling_rate
