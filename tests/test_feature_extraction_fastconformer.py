"""The feature extractor: shapes, input forms, invariance, errors, round trips. Equality with NeMo has its own file."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchFeature

from transformers_fastconformer import feature_extraction_fastconformer as module
from transformers_fastconformer.audio.mel_filterbank import mel_filterbank
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor

RATE = 16000


@pytest.fixture
def feature_extractor() -> FastConformerFeatureExtractor:
    return FastConformerFeatureExtractor()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def assert_same(outputs: BatchFeature, expected: BatchFeature) -> None:
    assert outputs.keys() == expected.keys()
    for name in expected:
        assert torch.equal(torch.as_tensor(outputs[name]), torch.as_tensor(expected[name])), name


def test_shapes_types_and_masks(feature_extractor: FastConformerFeatureExtractor) -> None:
    outputs = feature_extractor([noise(1600), noise(999)], sampling_rate=RATE, return_tensors="pt")
    assert list(outputs) == feature_extractor.model_input_names
    assert outputs.input_features.shape == (2, 11, 80)
    assert outputs.input_features.dtype == torch.float32
    assert outputs.input_features.is_contiguous()
    assert outputs.attention_mask.dtype == torch.bool
    assert outputs.input_lengths.dtype == torch.int64
    assert outputs.input_lengths.tolist() == [10, 6]
    assert outputs.attention_mask.sum(dim=1).tolist() == [10, 6]
    assert outputs.attention_mask[1].tolist() == [True] * 6 + [False] * 5
    assert (outputs.input_features[~outputs.attention_mask] == 0).all()


def test_masked_frames_have_the_padding_value() -> None:
    for normalize in ("per_feature", "all_features", None):
        feature_extractor = FastConformerFeatureExtractor(padding_value=-2.5, pad_to=16, normalize=normalize)
        outputs = feature_extractor([noise(3300), noise(40)], sampling_rate=RATE)
        assert outputs.input_features.shape[1] == 32
        assert (outputs.input_features[~outputs.attention_mask] == -2.5).all()
        assert (outputs.input_features[outputs.attention_mask] != -2.5).all()


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 319, 320, 400])
@pytest.mark.parametrize("normalize", ["per_feature", "all_features", None])
@pytest.mark.parametrize("exact_pad", [False, True])
def test_short_clips_are_never_nan(num_samples: int, normalize: str | None, exact_pad: bool) -> None:
    feature_extractor = FastConformerFeatureExtractor(normalize=normalize, exact_pad=exact_pad)
    alone = feature_extractor(noise(num_samples), sampling_rate=RATE)
    expected = max(num_samples // 160 - exact_pad, 0)
    assert alone.input_lengths.tolist() == [expected]
    assert alone.input_features.shape[1] >= expected + (not exact_pad)
    assert torch.isfinite(alone.input_features).all()
    together = feature_extractor([noise(num_samples), noise(2000)], sampling_rate=RATE)
    assert together.input_lengths.tolist()[0] == expected
    assert torch.isfinite(together.input_features).all()
    torch.testing.assert_close(together.input_features[0, :expected], alone.input_features[0, :expected])


def test_one_mel_and_one_frame_are_finite() -> None:
    outputs = FastConformerFeatureExtractor(feature_size=1, normalize="all_features")(noise(160), sampling_rate=RATE)
    assert outputs.input_features.tolist() == [[[0.0], [0.0]]]


def test_neighbours_and_padding_change_nothing_beyond_rounding(
    feature_extractor: FastConformerFeatureExtractor,
) -> None:
    clips = [noise(num_samples, seed=num_samples) for num_samples in (480, 1600, 5000, 12345, 31000)]
    together = feature_extractor(clips, sampling_rate=RATE)
    for index, clip in enumerate(clips):
        alone = feature_extractor(clip, sampling_rate=RATE)
        mel_length = int(alone.input_lengths)
        assert mel_length == together.input_lengths[index]
        difference = together.input_features[index, :mel_length] - alone.input_features[0, :mel_length]
        assert difference.abs().max() < 1e-5


def test_without_padding_every_clip_is_as_alone(feature_extractor: FastConformerFeatureExtractor) -> None:
    clips = [noise(num_samples, seed=num_samples) for num_samples in (480, 1600, 5000)]
    outputs = feature_extractor(clips, sampling_rate=RATE, padding=False)
    assert outputs.input_lengths.tolist() == [3, 10, 31]
    for index, clip in enumerate(clips):
        alone = feature_extractor(clip, sampling_rate=RATE)
        assert torch.equal(outputs.input_features[index], alone.input_features[0])
        assert torch.equal(outputs.attention_mask[index], alone.attention_mask[0])
    with pytest.raises(ValueError, match="needs clips of equally many mel frames, but there are clips of 4 to 32"):
        feature_extractor(clips, sampling_rate=RATE, padding=False, return_tensors="pt")
    equal = feature_extractor(
        [noise(1600), noise(1650)], sampling_rate=RATE, padding="do_not_pad", return_tensors="np"
    )
    assert equal.input_features.shape == (2, 11, 80)


def test_all_forms_of_one_clip_are_the_same(feature_extractor: FastConformerFeatureExtractor) -> None:
    clip = noise(1000)
    expected = feature_extractor(clip, sampling_rate=RATE)
    array = clip.numpy()
    read_only = array.copy()
    read_only.flags.writeable = False
    forms: list[Any] = [array, array.astype(np.float64), array.astype(">f4"), read_only, array[::-1].copy()[::-1]]
    forms += [array.tolist(), [array], [clip], [array.tolist()], (clip,), clip[None], clip[:, None], list(clip)]
    for form in forms:
        assert_same(feature_extractor(form, sampling_rate=RATE), expected)


def test_type_of_the_result(feature_extractor: FastConformerFeatureExtractor) -> None:
    array = noise(1000).numpy()
    assert isinstance(feature_extractor(array, sampling_rate=RATE).input_features, np.ndarray)
    assert isinstance(feature_extractor(array, sampling_rate=RATE, return_tensors="pt").input_features, torch.Tensor)
    assert isinstance(feature_extractor(array, sampling_rate=RATE, device="cpu").input_features, torch.Tensor)
    assert isinstance(feature_extractor(torch.from_numpy(array), sampling_rate=RATE).input_features, torch.Tensor)
    outputs = feature_extractor(torch.from_numpy(array), sampling_rate=RATE, return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in outputs.values())


def test_padded_batch_with_lengths(feature_extractor: FastConformerFeatureExtractor) -> None:
    clips = [noise(3000), noise(1234, seed=1), noise(160, seed=2)]
    expected = feature_extractor(clips, sampling_rate=RATE)
    waveforms = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=float("nan"))
    for audio_lengths in ([3000, 1234, 160], np.array([3000, 1234, 160]), torch.tensor([3000, 1234, 160])):
        assert_same(feature_extractor(waveforms, audio_lengths, sampling_rate=RATE), expected)
        assert_same(feature_extractor(list(waveforms), audio_lengths, sampling_rate=RATE), expected)
    wider = torch.nn.functional.pad(waveforms, (0, 320))
    assert feature_extractor(wider, [3000, 1234, 160], sampling_rate=RATE).input_features.shape[1] == 21


def test_samples_beyond_the_length_never_count() -> None:
    """Also without pre-emphasis, where NeMo lets them leak into the last frames."""
    waveforms = noise(2, 2000)
    silenced = waveforms.clone()
    silenced[1, 900:] = 0
    for arguments in ({}, {"preemphasis": None}, {"preemphasis": None, "exact_pad": True}):
        feature_extractor = FastConformerFeatureExtractor(**arguments)  # type: ignore[arg-type]
        outputs = feature_extractor(waveforms, [2000, 900], sampling_rate=RATE)
        assert_same(outputs, feature_extractor(silenced, [2000, 900], sampling_rate=RATE))


def test_channels(feature_extractor: FastConformerFeatureExtractor) -> None:
    stereo = noise(2, 3000)
    mono = feature_extractor(stereo.mean(dim=0), sampling_rate=RATE)
    right = feature_extractor(stereo[1], sampling_rate=RATE)
    for clip in (stereo, stereo.T, stereo.numpy(), stereo.T.numpy(), stereo.T.tolist()):
        assert_same(feature_extractor([clip], sampling_rate=RATE), mono)
        assert_same(feature_extractor([clip], sampling_rate=RATE, channels=1), right)
    for clip in (stereo, stereo.T):
        assert_same(feature_extractor(clip, sampling_rate=RATE, channels="mix"), mono)
        assert_same(feature_extractor(clip, sampling_rate=RATE, channels=1), right)
        assert_same(feature_extractor(clip[None], sampling_rate=RATE), mono)
    outputs = feature_extractor([stereo, stereo.T[:1000], noise(500)], sampling_rate=RATE)
    assert outputs.input_lengths.tolist() == [18, 6, 3]
    batch = feature_extractor(torch.stack([stereo, stereo]), [3000, 2000], sampling_rate=RATE)
    assert batch.input_lengths.tolist() == [18, 12]


def test_pad_collates(feature_extractor: FastConformerFeatureExtractor) -> None:
    """The base class's `pad`, as a data collator uses it on examples that were extracted alone."""
    clips = [noise(3000), noise(1234, seed=1)]
    examples = []
    for clip in clips:
        single = feature_extractor(clip, sampling_rate=RATE, return_tensors="np")
        examples.append({name: single[name][0] for name in ("input_features", "attention_mask")})
    padded = feature_extractor.pad(examples, return_tensors="pt")
    together = feature_extractor(clips, sampling_rate=RATE)
    torch.testing.assert_close(padded["input_features"], together.input_features)
    assert torch.equal(padded["attention_mask"].bool(), together.attention_mask)


WRONG_CALLS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "other rate": (
        lambda: {"raw_speech": noise(500), "sampling_rate": 8000},
        r"sampling_rate=8000 does not fit: the model expects 16000 Hz",
    ),
    "nan": (
        lambda: {"raw_speech": [noise(500), torch.tensor([0.0, 0.1, float("nan")])]},
        r"Clip 1 has the value nan at sample 2; expected finite samples",
    ),
    "infinite": (lambda: {"raw_speech": np.array([0.0, -np.inf])}, r"Clip 0 has the value -inf at sample 1"),
    "nan without padding": (
        lambda: {"raw_speech": [noise(500), torch.tensor([float("nan")])], "padding": False},
        r"Clip 1 has the value nan at sample 0",
    ),
    "int8": (
        lambda: {"raw_speech": np.zeros(500, dtype=np.int8)},
        r"raw_speech has samples of type int8; .*\[-1, 1\] or 16-bit integers\. .* by their full scale first: 128",
    ),
    "int32": (
        lambda: {"raw_speech": [torch.zeros(500, dtype=torch.int32)]},
        r"Clip 0 has samples of type torch.int32; .*: 2147483648 for 32 bits, 32768 for 16 bits\.",
    ),
    "integers": (lambda: {"raw_speech": [0, 1, 2]}, r"raw_speech has samples of type int64; .* 32768 for 16 bits"),
    "complex": (
        lambda: {"raw_speech": np.zeros(500, dtype=complex)},
        r"samples of type complex128; expected floating",
    ),
    "booleans": (lambda: {"raw_speech": torch.zeros(500, dtype=torch.bool)}, r"samples of type torch.bool; expected"),
    "a path": (lambda: {"raw_speech": "talk.wav"}, r"raw_speech is of type str; .*read_audio reads files"),
    "a list of paths": (lambda: {"raw_speech": ["talk.wav"]}, r"Clip 0 is of type str"),
    "nothing": (lambda: {"raw_speech": None}, r"raw_speech is of type NoneType"),
    "empty list": (lambda: {"raw_speech": []}, r"raw_speech is an empty list; expected at least one clip"),
    "empty clip": (lambda: {"raw_speech": np.zeros(0, dtype=np.float32)}, r"Clip 0 is empty \(0 samples\)"),
    "an empty clip": (lambda: {"raw_speech": [noise(500), []]}, r"Clip 1 is empty \(0 samples\)"),
    "ragged clip": (lambda: {"raw_speech": [[[0.1, 0.2], [0.3]]]}, r"Clip 0 has rows of different lengths"),
    "batch or stereo": (
        lambda: {"raw_speech": noise(2, 500)},
        r"raw_speech of shape \(2, 500\) may be a batch or one clip with channels; expected audio_lengths",
    ),
    "square clip": (lambda: {"raw_speech": [noise(4, 4)]}, r"Clip 0 has shape \(4, 4\): which side is time"),
    "features": (lambda: {"raw_speech": [noise(80, 500)]}, r"Clip 0 has shape \(80, 500\); .*at most 2 channels"),
    "four dimensions": (lambda: {"raw_speech": noise(1, 2, 3, 4)}, r"Clip 0 has shape \(1, 2, 3, 4\); expected"),
    "no such channel": (
        lambda: {"raw_speech": [noise(2, 500)], "channels": 2},
        r"channels=2 of Clip 0 does not exist; it has channels 0 to 1",
    ),
    "channel of mono": (lambda: {"raw_speech": [noise(500)], "channels": 1}, r"channels=1 is not supported; .*mono"),
    "name of a channel": (
        lambda: {"raw_speech": [noise(500)], "channels": "left"},
        r"channels='left' is not supported",
    ),
    "channel of a batch": (
        lambda: {"raw_speech": noise(2, 500), "audio_lengths": [500, 400], "channels": 1},
        r"channels=1 is not supported; expected no channel of a mono batch but 0",
    ),
    "too long": (
        lambda: {"raw_speech": noise(2, 500), "audio_lengths": [500, 501]},
        r"audio_lengths\[1\]=501 is not supported; expected 1 to 500 samples",
    ),
    "negative": (
        lambda: {"raw_speech": noise(2, 500), "audio_lengths": [-1, 500]},
        r"audio_lengths\[0\]=-1 is not supported",
    ),
    "zero": (lambda: {"raw_speech": noise(2, 500), "audio_lengths": [500, 0]}, r"Clip 1 is empty \(0 samples\)"),
    "wrong count": (
        lambda: {"raw_speech": noise(2, 500), "audio_lengths": [500]},
        r"audio_lengths has shape \(1,\); expected \(2,\), one for each clip",
    ),
    "lengths in seconds": (
        lambda: {"raw_speech": noise(2, 500), "audio_lengths": [0.1, 0.2]},
        r"audio_lengths has values of type float64; expected integers",
    ),
    "maximum length": (
        lambda: {"raw_speech": noise(500), "padding": "max_length"},
        r"padding='max_length' is not supp",
    ),
    "truncation": (lambda: {"raw_speech": noise(500), "truncation": True}, r"truncation=True is not supported"),
    "no mask": (
        lambda: {"raw_speech": noise(500), "return_attention_mask": False},
        r"return_attention_mask=False is not supported",
    ),
    "other tensors": (lambda: {"raw_speech": noise(500), "return_tensors": "tf"}, r"return_tensors='tf' is not supp"),
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_wrong_input_is_named(case: str, feature_extractor: FastConformerFeatureExtractor) -> None:
    make_arguments, message = WRONG_CALLS[case]
    with pytest.raises(ValueError, match=message):
        feature_extractor(**{"sampling_rate": RATE, **make_arguments()})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_size": 10**9}, "feature_size=1000000000 .* at most 1024"),
        ({"n_fft": 10**9}, "n_fft=1000000000 .* at most 16384"),
        ({"win_length": 10**400, "n_fft": None}, "win_length=.* at most 16384"),
        ({"sampling_rate": 10**400}, "sampling_rate=.* at most 1000000"),
        ({"hop_length": 10**9}, "hop_length=1000000000 .* at most 65536"),
        ({"pad_to": 10**9}, "pad_to=1000000000 .* at most 4096"),
        ({"mel_filters": "x"}, "mel_filters cannot be read: .*; expected finite values of shape"),
        ({"feature_size": 0}, "feature_size=0 is not supported; expected an integer of 1 or more"),
        ({"hop_length": 160.0}, "hop_length=160.0 is not supported"),
        ({"win_length": None}, "win_length=None is not supported"),
        ({"n_fft": 256}, "n_fft=256 is not supported; expected at least win_length=400"),
        ({"window": "none"}, "window='none' is not supported; expected one of"),
        ({"normalize": "NA"}, "normalize='NA' is not supported; expected one of"),
        ({"preemphasis": "0.97"}, "preemphasis='0.97' is not supported"),
        ({"mag_power": float("nan")}, "mag_power=nan is not supported"),
        ({"log": "yes"}, "log='yes' is not supported"),
        ({"log_zero_guard_type": "max"}, "log_zero_guard_type='max' is not supported"),
        ({"log_zero_guard_value": "small"}, "log_zero_guard_value='small' is not supported"),
        ({"pad_to": "max"}, "pad_to='max' is not supported"),
        ({"frame_splicing": 0}, "frame_splicing=0 is not supported"),
        ({"min_frequency": 8000.0}, "min_frequency=8000.0 is not supported"),
        ({"mel_norm": 1}, "mel_norm=1 is not supported"),
        ({"peak_scaling": 0}, "peak_scaling=0 is not supported; expected a number above 0 or None"),
        ({"peak_scaling": True}, "peak_scaling=True is not supported"),
        ({"filterbank_dtype": "float64"}, "filterbank_dtype='float64' is not supported"),
        ({"exact_pad": True, "hop_length": 161}, "hop_length=161 is not supported; expected an even number"),
        ({"exact_pad": True, "hop_length": 600}, "hop_length=600 is not supported; expected at most n_fft"),
        ({"padding_side": "left"}, "padding_side='left' is not supported; expected 'right'"),
        ({"return_attention_mask": False}, "return_attention_mask=False is not supported; expected True"),
        ({"dither": 1e-5, "nfilt": 80}, "dither, nfilt: not an argument of FastConformerFeatureExtractor"),
        ({"mel_filters": np.zeros((3, 257))}, r"mel_filters has shape \(3, 257\); .* \(80, 257\)"),
        ({"window_values": np.full(400, np.nan)}, r"window_values has shape \(400,\); expected finite values"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastConformerFeatureExtractor(**arguments)


def test_an_unknown_sampling_rate_warns_once(
    feature_extractor: FastConformerFeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    module.logger.warning_once.cache_clear()
    monkeypatch.setattr(module.logger, "warning", lambda message, *arguments, **keywords: messages.append(message))
    for _ in range(3):
        feature_extractor(noise(500))
    assert len(messages) == 1
    assert "was not told the sampling rate of the audio and takes it for 16000 Hz" in messages[0]


ALL_OTHER_SETTINGS: dict[str, Any] = {
    "feature_size": 40,
    "sampling_rate": 8000,
    "hop_length": 80,
    "win_length": 200,
    "n_fft": None,
    "preemphasis": None,
    "window": "hamming",
    "normalize": "all_features",
    "mag_power": 1.0,
    "log": False,
    "log_zero_guard_type": "clamp",
    "log_zero_guard_value": "eps",
    "pad_to": 8,
    "padding_value": 1.5,
    "exact_pad": True,
    "frame_splicing": 2,
    "min_frequency": 20.0,
    "max_frequency": 3800.0,
    "mel_norm": None,
    "filterbank_dtype": "bfloat16",
    "peak_scaling": 1e-3,
}


@pytest.mark.parametrize("settings", [{}, ALL_OTHER_SETTINGS], ids=["defaults", "all-other"])
def test_round_trip(settings: dict[str, Any], tmp_path: Path) -> None:
    feature_extractor = FastConformerFeatureExtractor(**settings)
    feature_extractor.save_pretrained(tmp_path)
    text = (tmp_path / "preprocessor_config.json").read_text()
    saved = json.loads(text)
    assert saved["feature_extractor_type"] == "FastConformerFeatureExtractor"
    assert saved["window"] == settings.get("window", "hann")
    assert "mel_filters" not in saved
    assert "window_values" not in saved
    loaded = FastConformerFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_json_string() == text
    rate = feature_extractor.sampling_rate
    clips = [noise(3000), noise(1700)]
    expected = feature_extractor(clips, sampling_rate=rate)
    assert_same(loaded(clips, sampling_rate=rate), expected)
    assert loaded.to_json_string() == text  # a call leaves no trace
    for other in (copy.deepcopy(feature_extractor), pickle.loads(pickle.dumps(feature_extractor))):
        assert_same(other(clips, sampling_rate=rate), expected)
        assert other.to_json_string() == text
    assert expected.input_features.shape[2] == feature_extractor.output_size


def test_given_filters_and_window_are_saved_and_win(
    feature_extractor: FastConformerFeatureExtractor, tmp_path: Path
) -> None:
    filters = mel_filterbank(RATE, 512, 80) * np.float32(1.1)
    window = torch.hamming_window(400)
    given = FastConformerFeatureExtractor(mel_filters=filters, window_values=window, normalize=None)
    given.save_pretrained(tmp_path)
    loaded = FastConformerFeatureExtractor.from_pretrained(tmp_path)
    assert np.array_equal(loaded.mel_filters, filters)
    assert np.array_equal(loaded.window_values, window.numpy())
    clip = noise(2000)
    assert_same(loaded(clip, sampling_rate=RATE), given(clip, sampling_rate=RATE))
    plain = FastConformerFeatureExtractor(normalize=None)(clip, sampling_rate=RATE)
    assert (loaded(clip, sampling_rate=RATE).input_features - plain.input_features)[0, :12].abs().min() > 1e-4


def test_every_setting_changes_the_features() -> None:
    """No option is accepted and ignored."""
    clips = [noise(4000), noise(3000, seed=1)]
    clips[1][:2000] = 0
    base = {"sampling_rate": RATE, "normalize": None}

    def extract(**settings: Any) -> list[Any]:
        outputs = FastConformerFeatureExtractor(**{**base, **settings})(clips, sampling_rate=RATE)
        return [outputs.input_features, outputs.input_lengths]

    plain = extract()
    for name, value in ALL_OTHER_SETTINGS.items():
        if name == "sampling_rate":
            continue
        settings = {name: 512 if name == "win_length" else 1024 if name == "n_fft" else value}
        features, lengths = extract(**settings)
        changed = features.shape != plain[0].shape or not torch.equal(features, plain[0])
        assert changed or not torch.equal(lengths, plain[1]), name


def test_settings_changed_after_construction_count(feature_extractor: FastConformerFeatureExtractor) -> None:
    clip = noise(2000)
    feature_extractor(clip, sampling_rate=RATE)
    feature_extractor.feature_size = 128
    expected = FastConformerFeatureExtractor(feature_size=128)(clip, sampling_rate=RATE)
    assert_same(feature_extractor(clip, sampling_rate=RATE), expected)


def test_eight_threads_share_one(feature_extractor: FastConformerFeatureExtractor) -> None:
    clips = [noise(num_samples, seed=num_samples) for num_samples in range(1000, 9000, 1000)]
    expected = [feature_extractor(clip, sampling_rate=RATE) for clip in clips]
    shared = FastConformerFeatureExtractor()
    results: dict[int, list[BatchFeature]] = {}

    def work(index: int) -> None:
        results[index] = [shared(clips[index], sampling_rate=RATE) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(8):
        for outputs in results[index]:
            assert_same(outputs, expected[index])


def test_autocast_and_default_dtype_change_nothing() -> None:
    clip = noise(2000)
    expected = FastConformerFeatureExtractor()(clip, sampling_rate=RATE)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = FastConformerFeatureExtractor()(clip, sampling_rate=RATE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(outputs, expected)


def test_half_precision_moves_the_features() -> None:
    """Rounded filters and window: by about 0.05 in float16 and 0.4 in bfloat16, measured with NeMo."""
    clip = noise(20000)
    features = {
        dtype: FastConformerFeatureExtractor(filterbank_dtype=dtype)(clip, sampling_rate=RATE).input_features
        for dtype in ("float32", "float16", "bfloat16")
    }
    assert 1e-4 < (features["float16"] - features["float32"]).abs().max() < 0.1
    assert 1e-3 < (features["bfloat16"] - features["float32"]).abs().max() < 1.0


@pytest.mark.gpu
def test_on_a_device(feature_extractor: FastConformerFeatureExtractor) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    clips = [noise(30000), noise(12345, seed=1), noise(200)]
    expected = feature_extractor(clips, sampling_rate=RATE)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        outputs = feature_extractor(clips, sampling_rate=RATE, device="cuda")
        from_there = feature_extractor([clip.cuda() for clip in clips], sampling_rate=RATE)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    assert all(value.is_cuda for value in outputs.values())
    assert torch.equal(outputs.input_features, from_there.input_features)
    assert torch.equal(outputs.input_lengths.cpu(), expected.input_lengths)
    torch.testing.assert_close(outputs.input_features.cpu(), expected.input_features, atol=2e-3, rtol=0)


def test_clips_are_cut_and_filled_up_where_asked_for() -> None:
    """`max_length` is in samples; what is filled up does not count."""
    extractor, clips = FastConformerFeatureExtractor(), [noise(9000), noise(4000)]

    def extract(audio: Any, **options: Any) -> Any:
        return extractor(audio, sampling_rate=RATE, return_tensors="pt", **options)

    cut = extract(clips, truncation=True, max_length=5000)
    expected = extract([clips[0][:5000], clips[1]])
    assert all(torch.equal(cut[name], expected[name]) for name in expected)
    filled = extract(clips, padding="max_length", max_length=16000)
    whole = extract(clips)
    assert filled["input_features"].shape[1] == extract([noise(16000)])["input_features"].shape[1]
    assert torch.equal(filled["input_lengths"], whole["input_lengths"])
    for clip, length in enumerate(whole["input_lengths"].tolist()):
        torch.testing.assert_close(filled["input_features"][clip, :length], whole["input_features"][clip, :length])
        assert not filled["input_features"][clip, length:].any()
    both = extract(clips, padding="max_length", max_length=5000, truncation=True)
    assert torch.equal(both["input_features"], cut["input_features"])
    (alone, _) = extractor(clips, sampling_rate=RATE, padding=False, truncation=True, max_length=5000)[
        "input_features"
    ]
    assert alone.shape[0] == extract([noise(5000)])["input_features"].shape[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 5000}, "max_length=5000 is not supported; expected None without truncation=True"),
        ({"padding": "max_length"}, "padding='max_length' is not supported; expected True or False without a max_len"),
        ({"truncation": True}, "truncation=True is not supported; expected False without a max_length"),
        ({"padding": "max_length", "max_length": 5000}, "Clip 1 has 9000 samples; expected max_length=5000 at most"),
        ({"truncation": True, "max_length": 0}, "max_length=0 is not supported; expected an integer of 1 or more"),
        ({"truncation": "longest_first", "max_length": 9}, "truncation='longest_first' is not supported"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastConformerFeatureExtractor()([noise(4000), noise(9000)], sampling_rate=RATE, **options)


def test_a_stream_has_the_features_of_the_whole_audio() -> None:
    extractor = FastConformerFeatureExtractor(normalize=None)
    samples = np.sin(np.arange(16000) / 7.0).astype(np.float32)
    streams = [extractor.open_stream(16000, name="call"), extractor.open_stream()]
    assert streams[0].log_mel is streams[1].log_mel  # so that they can be advanced together
    parts = [streams[0].push(samples[start : start + 1280]) for start in range(0, 16000, 1280)]
    whole = extractor(samples, sampling_rate=16000, return_tensors="pt")["input_features"][0]
    assert torch.equal(torch.cat([*parts, streams[0].finish(with_masked_frame=True)]), whole)
