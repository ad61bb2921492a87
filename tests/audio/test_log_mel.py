"""The log-mel features: the plain definition, stretches, and clips block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import transformers_fastconformer.audio.log_mel as module
from transformers_fastconformer.audio.feature_normalization import FeatureStatistics
from transformers_fastconformer.audio.log_mel import LogMel
from transformers_fastconformer.audio.log_mel_settings import LogMelSettings
from transformers_fastconformer.audio.mel_filterbank import mel_filterbank
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor

RATE = 16000


def make_log_mel(**settings: Any) -> LogMel:
    """By default the settings of the feature extractor."""
    return FastConformerFeatureExtractor(**settings).log_mel


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def extract(log_mel: LogMel, *clips: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    waveforms = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    features, mel_lengths = log_mel.extract(waveforms, torch.tensor([len(clip) for clip in clips]))
    return features, mel_lengths.tolist()


def reference_features(samples: np.ndarray, settings: LogMelSettings) -> np.ndarray:
    """Per-feature normalised log-mels, frame by frame in float64 with the FFT's definition."""
    emphasized = np.concatenate([samples[:1], samples[1:] - 0.97 * samples[:-1]]).astype(np.float64)
    padded = np.pad(emphasized, settings.n_fft // 2)
    indices = np.arange(settings.win_length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * indices / (settings.win_length - 1))  # symmetric Hann
    offset = (settings.n_fft - settings.win_length) // 2
    filters = mel_filterbank(RATE, settings.n_fft, settings.feature_size).astype(np.float64)
    rows = []
    for frame in range(len(samples) // settings.hop_length):
        start = frame * settings.hop_length + offset
        spectrum = np.fft.rfft(padded[start : start + settings.win_length] * window, n=settings.n_fft)
        rows.append(np.log(filters @ np.abs(spectrum) ** 2 + 2**-24))
    mels = np.stack(rows)  # (frames, mels)
    return (mels - mels.mean(axis=0)) / (mels.std(axis=0, ddof=1) + 1e-5)


def test_features_are_those_of_the_plain_definition() -> None:
    log_mel, samples = make_log_mel(), noise(4321)
    features, mel_lengths = extract(log_mel, samples)
    assert mel_lengths == [27]
    assert np.abs(features[0, :27].numpy() - reference_features(samples.numpy(), log_mel.settings)).max() < 2e-4
    assert (features[0, 27] == 0).all()


@pytest.mark.parametrize("exact_pad", [False, True])
def test_stretches_of_long_audio_join_without_a_seam(exact_pad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    log_mel = make_log_mel(exact_pad=exact_pad)
    clips = [noise(16000), noise(12345, seed=1)]
    at_once, mel_lengths = extract(log_mel, *clips)
    for frames_at_once in (1, 7, 16, 50):
        monkeypatch.setattr(module, "FRAMES_AT_ONCE", frames_at_once)
        features, found_lengths = extract(log_mel, *clips)
        torch.testing.assert_close(features, at_once, atol=1e-5, rtol=0)
        assert found_lengths == mel_lengths


def test_settings_are_checked() -> None:
    settings = make_log_mel().settings
    with pytest.raises(ValueError, match="n_fft=256 is not supported; expected at least win_length=400"):
        replace(settings, n_fft=256)
    with pytest.raises(ValueError, match="window='none' is not supported; expected one of"):
        replace(settings, window="none")


@pytest.mark.parametrize("preemphasis", [0.97, None])
def test_peaks_are_scaled_clip_by_clip(preemphasis: float | None) -> None:
    """By the largest sample, with its sign, and by nothing of the padding or of the other clips."""
    settings: dict[str, Any] = {"normalize": None, "preemphasis": preemphasis}
    plain, scaled = make_log_mel(**settings), make_log_mel(**settings, peak_scaling=0.01)
    clips = [noise(4000), 3 * noise(2500, seed=1), noise(1000, seed=2).abs() - 1.0, torch.zeros(700), torch.zeros(0)]
    clips[0][1234] = -0.9  # loud, and below zero
    factors = [1 / (float(clip.max()) + 0.01) for clip in clips[:-1]] + [100.0]
    assert factors[2] < 0
    expected, lengths = extract(plain, *(factor * clip for factor, clip in zip(factors, clips, strict=True)))
    features, found_lengths = extract(scaled, *clips)
    assert found_lengths == lengths
    torch.testing.assert_close(features, expected, rtol=0, atol=2e-4)
    for clip, length, row in zip(clips[:-1], lengths, features, strict=False):
        alone, _ = extract(scaled, clip)
        torch.testing.assert_close(alone[0, :length], row[:length], rtol=0, atol=1e-5)


# Features as a stream


def stream_log_mels(log_mel: LogMel, samples: torch.Tensor, block_samples: int) -> tuple[list[torch.Tensor], int]:
    """Log-mels block by block, and the samples that were counted."""
    state, blocks = None, []
    for part in samples.split(block_samples):
        log_mels, state = log_mel.extract_block(part, state)
        blocks.append(log_mels)
    log_mels, state = log_mel.extract_block(samples[:0], state, is_last=True)
    return [*blocks, log_mels], state.num_samples


STREAM_SETTINGS: list[dict[str, Any]] = [
    {},
    {"normalize": None},
    {"normalize": "all_features"},
    {"preemphasis": None},
    {"exact_pad": True},
    {"exact_pad": True, "preemphasis": None},
    {"pad_to": 16, "feature_size": 128},
    {"frame_splicing": 2, "log": False},
    {"n_fft": None, "win_length": 320},
]


@pytest.mark.parametrize("settings", STREAM_SETTINGS, ids=str)
def test_a_stream_has_the_features_of_the_whole_clip(settings: dict[str, Any]) -> None:
    log_mel = make_log_mel(**settings)
    for num_samples in (1, 159, 160, 161, 200, 513, 1600, 4321, 48007):
        samples = noise(num_samples, seed=num_samples)
        whole, (mel_length,) = extract(log_mel, samples)
        for block_samples in (61, 160, 1000, 10**6):
            blocks, counted_samples = stream_log_mels(log_mel, samples, block_samples)
            assert log_mel.mel_length(counted_samples) == mel_length
            features = log_mel.finish_clip(torch.cat(blocks, dim=1), mel_length)
            assert torch.equal(features, whole[0]), (num_samples, block_samples)


@pytest.mark.parametrize("settings", [{}, {"feature_size": 128, "preemphasis": None}, {"exact_pad": True}], ids=str)
def test_a_stream_of_several_stretches_is_the_whole_clip_to_the_last_bit(settings: dict[str, Any]) -> None:
    log_mel = make_log_mel(**settings)
    hop = log_mel.settings.hop_length
    for num_frames, num_stretches in ((2 * module.FRAMES_AT_ONCE - 2, 1), (3 * module.FRAMES_AT_ONCE + 5, 3)):
        samples = noise(num_frames * hop + 77)
        whole, _ = extract(log_mel, samples)
        blocks, num_samples = stream_log_mels(log_mel, samples, 262144)
        assert sum(1 for block in blocks if block.shape[1]) == num_stretches
        features = log_mel.finish_clip(torch.cat(blocks, dim=1), log_mel.mel_length(num_samples))
        assert torch.equal(features, whole[0])


@pytest.mark.parametrize("normalize", ["per_feature", "all_features", None])
@pytest.mark.parametrize("num_samples", [100, 160, 400, 16000, 50003])
def test_blocks_normalized_by_statistics_are_the_whole_clip(
    normalize: str | None, num_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRAMES_AT_ONCE", 16)
    log_mel = make_log_mel(normalize=normalize)
    samples = noise(num_samples)
    whole, (mel_length,) = extract(log_mel, samples)
    blocks, _ = stream_log_mels(log_mel, samples, 999)
    statistics = None
    num_frames = 0
    for block in blocks:
        counted = block[:, : max(mel_length - num_frames, 0)]
        num_frames += block.shape[1]
        of_block = FeatureStatistics.of(counted)
        statistics = of_block if statistics is None else statistics.join(of_block)
    assert statistics is not None
    assert statistics.num_frames == mel_length
    features = torch.cat([log_mel.normalize_block(block, statistics) for block in blocks])[:mel_length]
    torch.testing.assert_close(features, whole[0, :mel_length], atol=1e-4, rtol=0)


def test_a_stream_holds_no_more_than_two_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRAMES_AT_ONCE", 10)
    log_mel = make_log_mel()
    state = None
    for _ in range(50):
        _, state = log_mel.extract_block(noise(1000), state)
        # Its storage, too: a view would keep what came before.
        waiting_samples = state.waiting.untyped_storage().nbytes() // 4
        assert waiting_samples < (2 * 10 + 1) * log_mel.settings.hop_length + log_mel.settings.n_fft


def test_a_stream_has_no_peak() -> None:
    with pytest.raises(ValueError, match=r"peak_scaling=0.001 is not supported; expected None, or the whole clip"):
        make_log_mel(peak_scaling=1e-3).extract_block(noise(500))


@pytest.mark.parametrize("samples", [torch.zeros(1, 5), torch.zeros(5, dtype=torch.float64)])
def test_a_stream_of_something_else(samples: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"samples has shape .* expected \(samples,\), torch.float32"):
        make_log_mel().extract_block(samples)
