"""Features of a file, held or streamed: those of the whole clip, and never the whole clip in memory."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import transformers_fastconformer.audio.files as audio_module
import transformers_fastconformer.audio.log_mel as log_mel_module
import transformers_fastconformer.inference.clip_features as module
from transformers_fastconformer.audio.files import AudioFile, read_audio
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.inference.clip_features import ClipFeatures, StreamedFeatures, extract_clip, open_clip

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

RATE = 16000


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that long files are cut into, small enough for clips of seconds."""
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", 3000)
    monkeypatch.setattr(log_mel_module, "FRAMES_AT_ONCE", 16)
    monkeypatch.setattr(module, "MAX_HELD_FRAMES", 40)


def write_noise(path: Path, sampling_rate: int, num_samples: int, num_channels: int = 1) -> Path:
    noise = np.random.default_rng(num_samples).uniform(-0.5, 0.5, (num_samples, num_channels))
    soundfile.write(path, noise, sampling_rate)
    return path


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 4800, 16013, 200001])
def test_a_clip_that_is_held_has_the_very_features_of_the_whole(num_samples: int, tmp_path: Path) -> None:
    path = write_noise(tmp_path / "noise.flac", RATE, num_samples)
    feature_extractor = FastConformerFeatureExtractor()
    expected = extract_clip(feature_extractor, read_audio(path))
    with AudioFile(path) as audio:
        found, counted_samples = open_clip(feature_extractor, audio)
    assert isinstance(found, ClipFeatures)
    assert counted_samples == num_samples
    assert found.mel_length == expected.mel_length
    assert torch.equal(found.input_features, expected.input_features)


@pytest.mark.parametrize("normalize", ["per_feature", "all_features", None])
@pytest.mark.parametrize("sampling_rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", ["mix", 1])
@pytest.mark.usefixtures("small_blocks")
def test_a_clip_that_is_streamed_has_the_features_of_the_whole(
    normalize: str | None, sampling_rate: int, channels: Any, tmp_path: Path
) -> None:
    if sampling_rate != RATE:
        pytest.importorskip("soxr")
    feature_extractor = FastConformerFeatureExtractor(normalize=normalize)
    path = write_noise(tmp_path / "noise.wav", sampling_rate, 2 * sampling_rate + 123, num_channels=2)
    expected = extract_clip(feature_extractor, read_audio(path, RATE, channels))
    with AudioFile(path) as audio:
        found, _ = open_clip(feature_extractor, audio, channels)
        assert isinstance(found, StreamedFeatures)
        assert found.mel_length == expected.mel_length
        whole = found.rows(0, found.mel_length + 1)
        torch.testing.assert_close(whole, expected.input_features, atol=1e-5, rtol=0)
        # Overlapping stretches, a gap, and back to the start.
        for start, stop in ((0, 30), (20, 55), (20, 21), (90, 140), (139, found.mel_length + 1), (3, 9)):
            assert torch.equal(found.rows(start, stop), whole[start:stop]), (start, stop)
        assert found.rows(found.mel_length + 1, found.mel_length + 9).shape == (0, 80)


@pytest.mark.usefixtures("small_blocks")
def test_what_lies_behind_is_dropped(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "noise.wav", RATE, 20 * RATE)
    with AudioFile(path) as audio:
        found, _ = open_clip(FastConformerFeatureExtractor(), audio)
        assert isinstance(found, StreamedFeatures)
        for start in range(0, 1900, 25):
            assert found.rows(start, start + 50).shape == (50, 80)
            assert found._held.untyped_storage().nbytes() <= (50 + 2 * 16) * 80 * 4


@pytest.mark.usefixtures("small_blocks")
def test_a_pipe_is_streamed(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    path = write_noise(tmp_path / "noise.wav", RATE, 2 * RATE)
    feature_extractor = FastConformerFeatureExtractor()
    with AudioFile(path) as audio, AudioFile(Pipe(path.read_bytes())) as pipe:
        expected, _ = open_clip(feature_extractor, audio)
        found, _ = open_clip(feature_extractor, pipe)
        assert torch.equal(found.rows(0, 201), expected.rows(0, 201))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seconds", [1, 3])
def test_a_file_that_changes_meanwhile(seconds: int, tmp_path: Path) -> None:
    path = write_noise(tmp_path / "noise.wav", RATE, 2 * RATE)
    with AudioFile(path) as audio:
        found, _ = open_clip(FastConformerFeatureExtractor(), audio)
        write_noise(path, RATE, seconds * RATE)
        with pytest.raises(ValueError, match="is not the file of 32000 samples any more"):
            found.rows(0, 201)


@pytest.mark.usefixtures("small_blocks")
def test_a_file_without_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(0), RATE)
    with AudioFile(tmp_path / "silent.wav") as audio, pytest.raises(ValueError, match="without samples"):
        open_clip(FastConformerFeatureExtractor(), audio)


class CountedFile(AudioFile):
    """Counts the samples that are held by somebody: those of blocks that still exist."""

    def blocks(self, sampling_rate: int = 16000, channels: str | int = "mix") -> Iterator[np.ndarray]:
        for block in super().blocks(sampling_rate, channels):
            self.most_samples = max(getattr(self, "most_samples", 0), len(block))
            yield block


def test_neither_samples_nor_features_of_a_long_file_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy's memory by tracemalloc, torch's by what the stream holds."""
    monkeypatch.setattr(module, "MAX_HELD_FRAMES", 4096)
    seconds = 300
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for second in range(seconds):
            file.write(np.random.default_rng(second).uniform(-0.1, 0.1, RATE))
    feature_extractor = FastConformerFeatureExtractor()
    tracemalloc.start()
    try:
        with CountedFile(path) as audio:
            found, num_samples = open_clip(feature_extractor, audio)
            assert isinstance(found, StreamedFeatures)
            most_frames = 0
            for start in range(0, found.mel_length, 1000):
                found.rows(start, start + 1500)
                most_frames = max(most_frames, found._held.shape[0])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_samples == seconds * RATE
    assert audio.most_samples == audio_module.BLOCK_SAMPLES
    assert peak_bytes < seconds * RATE * 4 / 2
    assert most_frames < 1500 + 2 * log_mel_module.FRAMES_AT_ONCE
