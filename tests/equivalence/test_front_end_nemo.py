"""The front end against NeMo's: filters, features, lengths and encoder lengths, bit for bit, on real speech."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer import frames
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.audio.log_mel import FRAMES_AT_ONCE
from transformers_fastconformer.audio.mel_filterbank import mel_filterbank
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor

pytestmark = pytest.mark.nemo

# Keys of NeMo's preprocessor section, and the same in our vocabulary. Both sides leave out what is default with NeMo.
NEMO_25_MS = {"window_size": 0.025, "features": 80, "n_fft": 512, "pad_to": 0}
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "parakeet": (NEMO_25_MS, {}),
    "128-mels": (NEMO_25_MS | {"features": 128}, {"feature_size": 128}),
    "nemo-defaults": ({}, {"feature_size": 64, "win_length": 320, "n_fft": None, "pad_to": 16}),
    "not-normalized": (NEMO_25_MS | {"normalize": "NA"}, {"normalize": None}),
    "all-features": (NEMO_25_MS | {"normalize": "all_features"}, {"normalize": "all_features"}),
    "no-preemphasis": (NEMO_25_MS | {"preemph": None}, {"preemphasis": None}),
    "preemphasis-0": (NEMO_25_MS | {"preemph": 0.0}, {"preemphasis": 0.0}),
    "preemphasis-0.9": (NEMO_25_MS | {"preemph": 0.9}, {"preemphasis": 0.9}),
    "hamming": (NEMO_25_MS | {"window": "hamming"}, {"window": "hamming"}),
    "blackman": (NEMO_25_MS | {"window": "blackman"}, {"window": "blackman"}),
    "bartlett": (NEMO_25_MS | {"window": "bartlett"}, {"window": "bartlett"}),
    "magnitudes": (NEMO_25_MS | {"mag_power": 1.0}, {"mag_power": 1.0}),
    "power-1.5": (NEMO_25_MS | {"mag_power": 1.5}, {"mag_power": 1.5}),
    "no-log": (NEMO_25_MS | {"log": False}, {"log": False}),
    "clamp": (
        NEMO_25_MS | {"log_zero_guard_type": "clamp", "log_zero_guard_value": 1e-5, "normalize": None},
        {"log_zero_guard_type": "clamp", "log_zero_guard_value": 1e-5, "normalize": None},
    ),
    "guard-eps": (NEMO_25_MS | {"log_zero_guard_value": "eps"}, {"log_zero_guard_value": "eps"}),
    "guard-tiny": (NEMO_25_MS | {"log_zero_guard_value": "tiny"}, {"log_zero_guard_value": "tiny"}),
    "pad-to-16": (NEMO_25_MS | {"pad_to": 16, "pad_value": -3.5}, {"pad_to": 16, "padding_value": -3.5}),
    "exact-pad": (NEMO_25_MS | {"exact_pad": True}, {"exact_pad": True}),
    "exact-pad-plain": (
        NEMO_25_MS | {"exact_pad": True, "preemph": None, "normalize": "NA", "pad_to": 16},
        {"exact_pad": True, "preemphasis": None, "normalize": None, "pad_to": 16},
    ),
    "splicing": (NEMO_25_MS | {"frame_splicing": 3}, {"frame_splicing": 3}),
    "splicing-all-features": (
        NEMO_25_MS | {"frame_splicing": 2, "normalize": "all_features"},
        {"frame_splicing": 2, "normalize": "all_features"},
    ),
    "band": (NEMO_25_MS | {"lowfreq": 50, "highfreq": 7600}, {"min_frequency": 50, "max_frequency": 7600}),
    "equal-height": (NEMO_25_MS | {"mel_norm": None}, {"mel_norm": None}),
    "in-samples": (
        {"window_size": None, "n_window_size": 401, "window_stride": None, "n_window_stride": 133, "pad_to": 0},
        {"feature_size": 64, "win_length": 401, "hop_length": 133, "n_fft": 512},
    ),
    "odd-fft": (NEMO_25_MS | {"n_fft": 511}, {"n_fft": 511}),
    "8-khz": (
        {"sample_rate": 8000, "window_size": 0.025, "features": 40, "pad_to": 0},
        {"sampling_rate": 8000, "win_length": 200, "hop_length": 80, "n_fft": 256, "feature_size": 40},
    ),
    "one-mel": (NEMO_25_MS | {"features": 1}, {"feature_size": 1}),
}


@pytest.fixture(scope="module")
def audio_preprocessing() -> Any:
    return pytest.importorskip("nemo.collections.asr.modules.audio_preprocessing")


@pytest.fixture(scope="module")
def clips(speech_dir: Path) -> list[torch.Tensor]:
    """48 recordings, from the shortest to a quarter of a minute, in the order of the manifest."""
    entries = [json.loads(line) for line in (speech_dir / "manifest.jsonl").read_text().splitlines()]
    digits = [entry for entry in entries if entry["audio_filepath"].startswith("digits/")]
    read = [entry for entry in entries if entry["audio_filepath"].startswith("read/") and entry["duration"] < 16]
    shortest = sorted(digits, key=lambda entry: entry["duration"])[:4]
    chosen = shortest + digits[:: len(digits) // 16][:16] + read[:: max(len(read) // 28, 1)][:28]
    assert len(chosen) == 48
    return [torch.from_numpy(read_audio(speech_dir / entry["audio_filepath"])) for entry in chosen]


def pad(clips: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])


def run_nemo(preprocessor: Any, waveforms: torch.Tensor, audio_lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # Its `transcribe` switches dither off, as evaluation does.
    features, mel_lengths = preprocessor(input_signal=waveforms.clone(), length=audio_lengths)
    return features.transpose(1, 2), mel_lengths


def assert_bit_equal(outputs: Any, reference: tuple[torch.Tensor, ...]) -> None:
    features, mel_lengths = reference
    assert outputs.input_features.shape == features.shape
    assert torch.equal(outputs.input_features, features)
    assert torch.equal(outputs.input_lengths, mel_lengths)
    mask = torch.arange(features.shape[1]) < mel_lengths[:, None]
    assert torch.equal(outputs.attention_mask, mask)


def assert_configuration_is_bit_equal(
    name: str, audio_preprocessing: Any, clips: list[torch.Tensor], batch_sizes: tuple[int, ...]
) -> None:
    nemo_arguments, arguments = CONFIGURATIONS[name]
    preprocessor = audio_preprocessing.AudioToMelSpectrogramPreprocessor(**nemo_arguments).eval()
    feature_extractor = FastConformerFeatureExtractor(**arguments)
    rate = feature_extractor.sampling_rate
    for clip in clips:
        outputs = feature_extractor(clip, sampling_rate=rate)
        assert_bit_equal(outputs, run_nemo(preprocessor, *pad([clip])))
    for batch_size in batch_sizes:
        for start in range(0, len(clips), batch_size):
            batch = clips[start : start + batch_size]
            reference = run_nemo(preprocessor, *pad(batch))
            assert_bit_equal(feature_extractor(batch, sampling_rate=rate), reference)
            waveforms, audio_lengths = pad(batch)
            assert_bit_equal(feature_extractor(waveforms, audio_lengths, sampling_rate=rate), reference)


@pytest.mark.parametrize("name", ["parakeet", "128-mels"])
def test_all_clips_are_bit_equal(name: str, audio_preprocessing: Any, clips: list[torch.Tensor]) -> None:
    assert_configuration_is_bit_equal(name, audio_preprocessing, clips, batch_sizes=(7, 48))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_option_is_bit_equal(name: str, audio_preprocessing: Any, clips: list[torch.Tensor]) -> None:
    few_clips = [*clips[:4], *sorted(clips[20:], key=len)[:6]]
    assert_configuration_is_bit_equal(name, audio_preprocessing, few_clips, batch_sizes=(10,))


@pytest.mark.parametrize("normalize", ["per_feature", "all_features", None])
@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 319, 320, 400, 480])
def test_short_clips_are_bit_equal(num_samples: int, normalize: str | None, audio_preprocessing: Any) -> None:
    preprocessor = audio_preprocessing.AudioToMelSpectrogramPreprocessor(**NEMO_25_MS, normalize=normalize).eval()
    feature_extractor = FastConformerFeatureExtractor(normalize=normalize)
    generator = torch.Generator().manual_seed(num_samples)
    clip = torch.randn(num_samples, generator=generator) * 0.1
    outputs = feature_extractor(clip, sampling_rate=16000)
    assert_bit_equal(outputs, run_nemo(preprocessor, *pad([clip])))
    assert not outputs.input_features.isnan().any()
    batch = [clip, torch.randn(1000, generator=generator) * 0.1]
    assert_bit_equal(feature_extractor(batch, sampling_rate=16000), run_nemo(preprocessor, *pad(batch)))


def test_silence_is_bit_equal(audio_preprocessing: Any) -> None:
    for normalize in ("per_feature", "all_features", None):
        preprocessor = audio_preprocessing.AudioToMelSpectrogramPreprocessor(**NEMO_25_MS, normalize=normalize).eval()
        outputs = FastConformerFeatureExtractor(normalize=normalize)(torch.zeros(3000), sampling_rate=16000)
        assert_bit_equal(outputs, run_nemo(preprocessor, *pad([torch.zeros(3000)])))


def test_clip_of_length_zero_in_a_batch(audio_preprocessing: Any) -> None:
    """Refused from users, but a stream may hold one: the plain computation gives NeMo's masked frames."""
    preprocessor = audio_preprocessing.AudioToMelSpectrogramPreprocessor(**NEMO_25_MS).eval()
    waveforms, audio_lengths = torch.randn(2, 1000), torch.tensor([1000, 0])
    features, mel_lengths = FastConformerFeatureExtractor().log_mel.extract(waveforms, audio_lengths)
    reference, reference_lengths = run_nemo(preprocessor, waveforms, audio_lengths)
    assert torch.equal(features, reference)
    assert torch.equal(mel_lengths, reference_lengths)


def test_samples_beyond_the_length_count_for_nothing(audio_preprocessing: Any) -> None:
    preprocessor = audio_preprocessing.AudioToMelSpectrogramPreprocessor(**NEMO_25_MS).eval()
    waveforms, audio_lengths = torch.randn(3, 5000), torch.tensor([5000, 3210, 170])
    outputs = FastConformerFeatureExtractor()(waveforms, audio_lengths, sampling_rate=16000)
    assert_bit_equal(outputs, run_nemo(preprocessor, waveforms, audio_lengths))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_archive_is_bit_equal(dtype: str, audio_preprocessing: Any, clips: list[torch.Tensor]) -> None:
    """Such an archive holds rounded filters and windows; NeMo loads them into float32 buffers."""
    preprocessor = audio_preprocessing.AudioToMelSpectrogramPreprocessor(**NEMO_25_MS).eval()
    stored = {name: tensor.to(getattr(torch, dtype)) for name, tensor in preprocessor.state_dict().items()}
    assert sorted(stored) == ["featurizer.fb", "featurizer.window"]
    unrounded = run_nemo(preprocessor, *pad(clips[-6:]))
    preprocessor.load_state_dict(stored)
    reference = run_nemo(preprocessor, *pad(clips[-6:]))
    assert not torch.equal(reference[0], unrounded[0])
    outputs = FastConformerFeatureExtractor(filterbank_dtype=dtype)(clips[-6:], sampling_rate=16000)
    assert_bit_equal(outputs, reference)


def test_stored_filters_and_window_win(audio_preprocessing: Any, clips: list[torch.Tensor], tmp_path: Path) -> None:
    preprocessor = audio_preprocessing.AudioToMelSpectrogramPreprocessor(**NEMO_25_MS).eval()
    preprocessor.featurizer.fb.mul_(torch.rand_like(preprocessor.featurizer.fb))
    preprocessor.featurizer.window.mul_(torch.rand_like(preprocessor.featurizer.window))
    FastConformerFeatureExtractor(
        mel_filters=preprocessor.featurizer.fb[0], window_values=preprocessor.featurizer.window
    ).save_pretrained(tmp_path)
    feature_extractor = FastConformerFeatureExtractor.from_pretrained(tmp_path)
    outputs = feature_extractor(clips[-4:], sampling_rate=16000)
    assert_bit_equal(outputs, run_nemo(preprocessor, *pad(clips[-4:])))


def test_nine_minutes_are_bit_equal(audio_preprocessing: Any, speech_dir: Path) -> None:
    """Computed a stretch at a time here, at once there."""
    samples = torch.from_numpy(read_audio(speech_dir / "long" / "crimson_17_stone_cutter.mp3"))
    assert len(samples) // 160 > 3 * FRAMES_AT_ONCE
    preprocessor = audio_preprocessing.AudioToMelSpectrogramPreprocessor(**NEMO_25_MS).eval()
    outputs = FastConformerFeatureExtractor()(samples, sampling_rate=16000)
    assert_bit_equal(outputs, run_nemo(preprocessor, *pad([samples])))


def test_filterbank_is_bit_equal_to_librosa() -> None:
    filters = pytest.importorskip("librosa").filters
    bands = [(0.0, None), (20.0, None), (50.0, 3800.0), (0.0, 7600.5), (1200.0, 3999.0)]
    grid = itertools.product(
        (8000, 16000, 22050, 44100, 48000), (256, 400, 511, 512, 1024), (13, 40, 64, 80, 128), bands, ("slaney", None)
    )
    for sampling_rate, n_fft, num_mels, (low, high), mel_norm in grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # narrow filters that hold no bin
            reference = filters.mel(sr=sampling_rate, n_fft=n_fft, n_mels=num_mels, fmin=low, fmax=high, norm=mel_norm)
        ours = mel_filterbank(sampling_rate, n_fft, num_mels, low, high, mel_norm)
        assert ours.dtype == reference.dtype
        assert np.array_equal(ours, reference), (sampling_rate, n_fft, num_mels, low, high, mel_norm)


def test_reading_a_file_is_bit_equal(speech_dir: Path) -> None:
    """22050 Hz MP3 and 16 kHz FLAC through NeMo's `AudioSegment`, which mixes and resamples as we do."""
    segment = pytest.importorskip("nemo.collections.asr.parts.preprocessing.segment")
    paths = [speech_dir / "long" / "crimson_17_stone_cutter.mp3", next((speech_dir / "read").rglob("*.flac"))]
    for path in paths:
        reference = segment.AudioSegment.from_file(str(path), target_sr=16000, channel_selector="average").samples
        ours = read_audio(path)
        assert abs(len(ours) - len(reference)) <= 1  # NeMo rounds the length in floats
        num_samples = min(len(ours), len(reference))
        assert np.array_equal(ours[:num_samples], reference[:num_samples])


@pytest.mark.parametrize("subsampling_type", ["dw_striding", "striding", "stacking", "stacking_norm"])
def test_encoder_lengths_are_nemos(subsampling_type: str) -> None:
    subsampling = pytest.importorskip("nemo.collections.asr.parts.submodules.subsampling")
    mel_lengths = torch.arange(0, 40)
    for factor, is_causal in itertools.product((2, 4, 8, 16), (False, True)):
        if subsampling_type.startswith("stacking"):
            front = subsampling.StackingSubsampling(factor, 8, 4, norm=subsampling_type == "stacking_norm")
        else:
            front = subsampling.ConvSubsampling(
                subsampling_type, factor, feat_in=8, feat_out=4, conv_channels=4, is_causal=is_causal
            )
        ours = frames.find_subsampling(subsampling_type, factor, is_causal)
        for padded in (40, 41, 48):
            outputs, lengths = front(torch.zeros(40, padded, 8), mel_lengths)
            # NeMo adds the rows that fill up a tensor of stacks to every clip.
            filling = -padded % factor if subsampling_type.startswith("stacking") else 0
            assert torch.equal(ours.count_frames(mel_lengths + filling), lengths)
            assert ours.count_rows(padded) == outputs.shape[1]
            if not subsampling_type.startswith("stacking"):
                assert ours.count_frames(8) * 4 == front.out.in_features
        for mel_length in range(1, 60):  # alone, with the masked frame after it
            _, lengths = front(torch.zeros(1, mel_length + 1, 8), torch.tensor([mel_length]))
            assert ours.count_frames(mel_length) == int(lengths)


@pytest.mark.parametrize("reduction_type", ["pooling", "striding"])
def test_reduced_lengths_are_nemos(reduction_type: str) -> None:
    subsampling = pytest.importorskip("nemo.collections.asr.parts.submodules.subsampling")
    encoder_lengths = torch.arange(0, 40)
    for factor in (2, 4):
        reduction = subsampling.SubsamplingReductionModule(reduction_type, d_model=4, reduction_factor=factor)
        outputs, lengths = reduction(torch.zeros(40, 41, 4), encoder_lengths)
        ours = frames.find_reduction(reduction_type, factor)
        assert torch.equal(ours.count_frames(encoder_lengths), lengths.long())
        assert ours.count_rows(41) == outputs.shape[1]


def test_convolution_lengths_are_nemos() -> None:
    subsampling = pytest.importorskip("nemo.collections.asr.parts.submodules.subsampling")
    lengths = torch.arange(0, 3000)
    for kernel, stride, paddings, repeats in itertools.product((1, 2, 3, 5), (1, 2, 4), (0, 1, 2, 3), (1, 2, 3)):
        reference = subsampling.calc_length(lengths, paddings, kernel, stride, ceil_mode=False, repeat_num=repeats)
        ours = frames.convolution_lengths(lengths, kernel, stride, paddings, 0, repeats)
        assert torch.equal(ours, reference.long())


def test_seconds_are_nemos_floats() -> None:
    for frame, factor in itertools.product(range(20000), (1, 4, 8)):
        assert frames.seconds_from_encoder_frames(frame, 160, 16000, factor) == frame * 0.01 * factor
