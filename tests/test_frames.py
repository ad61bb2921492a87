"""Length arithmetic against sizes counted on real tensors."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer import frames


@pytest.mark.parametrize("num_samples", [0, 1, 159, 160, 161, 319, 320, 400, 16000])
def test_valid_frames_are_whole_hops(num_samples: int) -> None:
    assert frames.mel_lengths_from_samples(num_samples, 160, 512) == num_samples // 160
    assert frames.mel_lengths_from_samples(num_samples, 160, 512, exact_pad=True) == max(num_samples // 160 - 1, 0)


def test_an_odd_transform_needs_a_sample_more() -> None:
    assert frames.mel_lengths_from_samples(160, 160, 511) == 0
    assert frames.mel_lengths_from_samples(161, 160, 511) == 1


def test_integers_and_tensors_agree() -> None:
    audio_lengths = torch.arange(0, 4000, 37)
    mel_lengths = frames.mel_lengths_from_samples(audio_lengths, 160, 512)
    encoder_lengths = frames.subsampled_lengths(mel_lengths, "dw_striding", 8)
    reduced = frames.reduced_lengths(encoder_lengths, "pooling", 2)
    assert mel_lengths.dtype == encoder_lengths.dtype == reduced.dtype == torch.int64
    for row, audio_length in enumerate(audio_lengths.tolist()):
        mel_length = frames.mel_lengths_from_samples(audio_length, 160, 512)
        encoder_length = frames.subsampled_lengths(mel_length, "dw_striding", 8)
        assert isinstance(encoder_length, int)
        assert mel_length == mel_lengths[row]
        assert encoder_length == encoder_lengths[row]
        assert frames.reduced_lengths(encoder_length, "pooling", 2) == reduced[row]


@pytest.mark.parametrize(("n_fft", "exact_pad"), [(512, False), (400, False), (511, False), (512, True)])
@pytest.mark.parametrize("num_samples", [160, 320, 321, 1000, 1599])
def test_valid_frames_are_one_fewer_than_those_of_the_stft(num_samples: int, n_fft: int, exact_pad: bool) -> None:
    padding = frames.stft_padding_samples(n_fft, 160, exact_pad)
    padded = torch.nn.functional.pad(torch.zeros(num_samples), (padding, padding))
    spectrum = torch.stft(padded, n_fft, 160, window=torch.ones(n_fft), center=False, return_complex=True)
    assert frames.mel_lengths_from_samples(num_samples, 160, n_fft, exact_pad) == spectrum.shape[1] - 1


def test_frames_are_filled_up() -> None:
    assert [frames.padded_mel_frames(101, pad_to) for pad_to in (0, 1, 16, 101)] == [101, 101, 112, 101]
    assert frames.padded_mel_frames(112, 16) == 112


def test_mel_frames_and_samples() -> None:
    for mel_frames in range(5):
        assert frames.mel_lengths_from_samples(mel_frames * 160, 160, 512) == mel_frames


@pytest.mark.parametrize(
    ("kernel_size", "stride", "left", "right"), [(3, 2, 1, 1), (3, 2, 2, 1), (5, 3, 0, 4), (1, 1, 0, 0)]
)
def test_convolution_lengths_are_those_of_a_convolution(kernel_size: int, stride: int, left: int, right: int) -> None:
    convolution = torch.nn.Conv1d(1, 1, kernel_size, stride)
    for num_frames in range(5, 30):
        rows = torch.nn.functional.pad(torch.zeros(1, 1, num_frames), (left, right))
        rows = convolution(rows)
        assert frames.convolution_lengths(num_frames, kernel_size, stride, left, right) == rows.shape[2]
        if rows.shape[2] + left + right >= kernel_size:
            rows = convolution(torch.nn.functional.pad(rows, (left, right)))
            assert frames.convolution_lengths(num_frames, kernel_size, stride, left, right, 2) == rows.shape[2]


def test_subsampling() -> None:
    assert [frames.subsampled_lengths(n, "dw_striding", 8) for n in (0, 1, 8, 9, 100)] == [0, 1, 1, 2, 13]
    assert [frames.subsampled_lengths(n, "striding", 4) for n in (0, 1, 4, 5, 100)] == [0, 1, 1, 2, 25]
    causal = [frames.subsampled_lengths(n, "dw_striding", 8, is_causal=True) for n in (0, 1, 8, 9, 16)]
    assert causal == [1, 1, 2, 2, 3]
    assert frames.subsampled_lengths(80, "dw_striding", 8, is_causal=True) == 11  # mel columns
    assert frames.subsampled_lengths(100, "none", 1) == 100


def test_stacking_alone_and_as_in_a_batch() -> None:
    mel_lengths = torch.tensor([7, 8, 9, 11])
    assert frames.subsampled_lengths(mel_lengths, "stacking", 4).tolist() == [1, 2, 2, 2]
    # NeMo adds the rows that fill up the tensor to every clip: 14 rows are filled up to 16.
    assert frames.subsampled_lengths(mel_lengths, "stacking_norm", 4, padded_frames=14).tolist() == [2, 2, 2, 3]


def test_reduction() -> None:
    lengths = torch.tensor([0, 1, 7, 8, 20])
    assert frames.reduced_lengths(lengths, None, 4) is lengths
    assert frames.reduced_lengths(lengths, "pooling", 2).tolist() == [0, 0, 3, 4, 10]
    assert frames.reduced_lengths(lengths, "pooling", 4).tolist() == [0, 0, 0, 0, 1]  # NeMo divides twice
    assert frames.reduced_frames(20, "pooling", 4) == 5
    assert frames.reduced_lengths(lengths, "striding", 2).tolist() == [0, 1, 4, 4, 10]
    assert frames.reduced_frames(20, "striding", 2) == 10


def test_seconds() -> None:
    seconds = frames.seconds_from_encoder_frames(torch.arange(4), 160, 16000, 8)
    assert seconds.dtype == torch.float64
    assert seconds.tolist() == [frames.seconds_from_encoder_frames(frame, 160, 16000, 8) for frame in range(4)]
    assert seconds[3] == pytest.approx(0.24)
    assert frames.seconds_from_samples(4800, 16000) == 0.3
    assert [frames.resampled_samples(n, 22050, 16000) for n in (0, 1, 441, 442)] == [0, 1, 320, 321]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="subsampling_type='vggnet' is not supported"):
        frames.subsampled_lengths(10, "vggnet", 4)
    with pytest.raises(ValueError, match="reduction_type='mean' is not supported"):
        frames.reduced_lengths(10, "mean", 2)
    with pytest.raises(ValueError, match="factor=6 is not supported; expected a power of 2"):
        frames.subsampled_lengths(10, "striding", 6)
