"""Options of the front end."""

from __future__ import annotations

import re

import pytest
from sortformer_archives import make_sortformer_config

from transformers_fastconformer.nemo.config_map import map_config


def mapped_front_end(nemo_config, **options):
    config = nemo_config("ctc")
    config["preprocessor"] |= options
    return map_config(config).feature_extractor_arguments


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window_size": None, "n_window_size": 400}, {"win_length": 400}),
        ({"window_size": 0.032, "window_stride": 0.016, "n_fft": None}, {"win_length": 512, "hop_length": 256}),
        ({"window_size": 0.04, "n_fft": None}, {"win_length": 640, "n_fft": 1024}),
        ({"normalize": "NA"}, {"normalize": None}),
        ({"normalize": None}, {"normalize": None}),
        ({"normalize": "all_features"}, {"normalize": "all_features"}),
        ({"preemph": None}, {"preemphasis": None}),
        ({"highfreq": 0}, {"max_frequency": None}),
        ({"lowfreq": 20, "highfreq": 7600}, {"min_frequency": 20, "max_frequency": 7600}),
        ({"log_zero_guard_value": "1e-6"}, {"log_zero_guard_value": 1e-6}),
        ({"log_zero_guard_value": "eps", "log_zero_guard_type": "clamp"}, {"log_zero_guard_value": "eps"}),
        ({"pad_to": -1}, {"pad_to": 0}),
        ({"mel_norm": None, "mag_power": 1.0}, {"mel_norm": None, "mag_power": 1.0}),
        ({"stft_conv": True, "use_torchaudio": True, "dither": 0.5}, {"feature_size": 16}),
    ],
)
def test_front_end_options(nemo_config, options, expected):
    arguments = mapped_front_end(nemo_config, **options)
    assert {name: arguments[name] for name in expected} == expected


@pytest.mark.parametrize("samples", [0, -1, 2.5, True, "400"])
def test_a_window_without_a_length_is_refused(nemo_config, samples):
    with pytest.raises(ValueError, match=re.escape(f"preprocessor.n_window_size={samples!r} is not supported")):
        mapped_front_end(nemo_config, window_size=None, n_window_size=samples)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1e-3),
        ({"eps": 0.25}, 0.25),
        ({"eps": "1e-4"}, 1e-4),
        ({"streaming_mode": False}, 1e-3),
        ({"streaming_mode": None}, 1e-3),
        ({"streaming_mode": True}, None),
        ({"streaming_mode": True, "eps": 0.25}, None),
        ({"target": None}, 1e-3),
        ({"target": "SpeechEncDecSelfSupervisedModel", "eps": 0.25}, None),
    ],
)
@pytest.mark.parametrize("encoder_only", [False, True])
def test_only_offline_diarisers_scale_the_audio(options, expected, encoder_only):
    mapped = map_config(make_sortformer_config(**{"streaming_mode": False, **options}), encoder_only=encoder_only)
    assert mapped.feature_extractor_arguments.get("peak_scaling") == expected
    assert expected is None or "eps" not in mapped.dropped


@pytest.mark.parametrize(
    "options", [{"eps": 0}, {"eps": -1e-3}, {"eps": None}, {"eps": [1]}, {"eps": "x"}, {"streaming_mode": "no"}]
)
def test_scaling_that_is_not_a_number_is_refused(nemo_config, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} is not supported; expected")):
        map_config(make_sortformer_config(**{"streaming_mode": False, **options}))
