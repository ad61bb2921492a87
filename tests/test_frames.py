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
    encoder_lengths = frames.find_subsampling("dw_striding", 8).count_frames(mel_lengths)
    reduced = frames.find_reduction("pooling", 2).count_frames(encoder_lengths)
    assert mel_lengths.dtype == encoder_lengths.dtype == reduced.dtype == torch.int64
    for row, audio_length in enumerate(audio_lengths.tolist()):
        mel_length = frames.mel_lengths_from_samples(audio_length, 160, 512)
        encoder_length = frames.find_subsampling("dw_striding", 8).count_frames(mel_length)
        assert isinstance(encoder_length, int)
        assert mel_length == mel_lengths[row]
        assert encoder_length == encoder_lengths[row]
        assert frames.find_reduction("pooling", 2).count_frames(encoder_length) == reduced[row]


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
    def count(subsampling: frames.Subsampling, *mel_lengths: int) -> list[int]:
        return [subsampling.count_frames(mel_length) for mel_length in mel_lengths]

    assert count(frames.find_subsampling("dw_striding", 8), 0, 1, 8, 9, 100) == [0, 1, 1, 2, 13]
    assert count(frames.find_subsampling("striding", 4), 0, 1, 4, 5, 100) == [0, 1, 1, 2, 25]
    causal = frames.find_subsampling("dw_striding", 8, is_causal=True)
    assert count(causal, 0, 1, 8, 9, 16) == [1, 1, 2, 2, 3]
    assert count(causal, 80) == [11]  # mel columns
    assert count(frames.find_subsampling("none", 1), 100) == [100]


@pytest.mark.parametrize(("subsampling_type", "factor"), [("none", 8), ("stacking", 1), ("none", 1)])
def test_no_subsampling_keeps_the_frames_whatever_type_or_factor_say(subsampling_type: str, factor: int) -> None:
    subsampling = frames.find_subsampling(subsampling_type, factor)
    assert subsampling.factor == 1
    assert subsampling.count_frames(7) == subsampling.count_rows(7) == 7


def test_a_stack_that_is_not_full_is_a_row_and_no_frame() -> None:
    mel_lengths = torch.tensor([7, 8, 9, 11])
    stacking = frames.find_subsampling("stacking", 4)
    assert stacking.count_frames(mel_lengths).tolist() == [1, 2, 2, 2]
    assert stacking.count_rows(mel_lengths).tolist() == [2, 2, 3, 3]


def test_reduction() -> None:
    lengths = torch.tensor([0, 1, 7, 8, 20])
    assert frames.find_reduction(None, 4).count_frames(lengths) is lengths
    assert frames.find_reduction("pooling", 1).count_frames(lengths) is lengths
    by_two, by_four = frames.find_reduction("pooling", 2), frames.find_reduction("pooling", 4)
    assert by_two.count_frames(lengths).tolist() == [0, 0, 3, 4, 10]
    assert by_four.count_frames(lengths).tolist() == [0, 0, 0, 0, 1]  # NeMo divides twice
    assert by_four.count_rows(20) == 5
    assert by_two.is_proportional
    assert not by_four.is_proportional
    striding = frames.find_reduction("striding", 2)
    assert striding.count_frames(lengths).tolist() == [0, 1, 4, 4, 10]
    assert striding.count_rows(20) == 10
    assert striding.is_proportional


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(("kind", "factor"), [("dw_striding", 8), ("striding", 4), ("striding", 2), ("stacking", 4)])
def test_chunks_of_a_stream_have_whole_encoder_frames(kind: str, factor: int, is_causal: bool) -> None:
    front = frames.find_subsampling(kind, factor, is_causal)
    assert front.can_stream
    for count in (1, 2, 7):
        first = front.first_mel_frames + factor * (count - 1)
        assert front.count_rows(first) == count
        later = front.overlap_mel_frames + factor * count
        assert front.count_rows(later) - front.overlap_frames == count


def test_streams_are_not_cut_for_a_front_that_reduces_nothing() -> None:
    assert not frames.find_subsampling("none", 1).can_stream
    assert not frames.find_subsampling("striding", 1).can_stream


def test_seconds() -> None:
    seconds = frames.seconds_from_encoder_frames(torch.arange(4), 160, 16000, 8)
    assert seconds.dtype == torch.float64
    assert seconds.tolist() == [frames.seconds_from_encoder_frames(frame, 160, 16000, 8) for frame in range(4)]
    assert seconds[3] == pytest.approx(0.24)
    assert frames.seconds_from_samples(4800, 16000) == 0.3
    assert [frames.resampled_samples(n, 22050, 16000) for n in (0, 1, 441, 442)] == [0, 1, 320, 321]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="subsampling_type='vggnet' is not supported"):
        frames.find_subsampling("vggnet", 4)
    with pytest.raises(ValueError, match="reduction_type='mean' is not supported"):
        frames.find_reduction("mean", 2)
    with pytest.raises(ValueError, match="factor=6 is not supported; expected a power of 2"):
        frames.find_subsampling("striding", 6)


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 0), (0.039, 0), (0.041, 1), (0.24, 3), (10.0, 125)])
def test_seconds_are_the_nearest_encoder_frames(seconds: float, expected: int) -> None:
    assert frames.encoder_frames_from_seconds(seconds, 0.08) == expected
