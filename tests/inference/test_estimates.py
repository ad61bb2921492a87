"""Estimates of memory and work, next to what was measured."""

from __future__ import annotations

import pytest
from models import BLANK, build_config

from transformers_fastconformer import FastConformerCTCConfig
from transformers_fastconformer.inference.chunk_plan import WindowPlan
from transformers_fastconformer.inference.estimates import estimate_encoder_work, estimate_one_pass_bytes

SHAPES = {
    "small": {"num_mel_bins": 80, "hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4},
    "medium": {"num_mel_bins": 80, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    "large": {"num_mel_bins": 128, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8},
}


@pytest.mark.parametrize(
    ("shape", "is_local", "seconds", "measured_megabytes"),
    [
        ("small", False, 300, 188),
        ("small", False, 1200, 285),
        ("small", True, 1800, 304),
        ("medium", False, 600, 495),
        ("medium", False, 1200, 688),
        ("medium", True, 1200, 790),
        ("large", False, 150, 316),
        ("large", False, 1200, 987),
        ("large", True, 600, 846),
        ("large", True, 1200, 1196),
    ],
)
def test_the_estimate_is_what_one_pass_was_measured_to_take(
    shape: str, is_local: bool, seconds: int, measured_megabytes: int
) -> None:
    """Growth of resident memory in a process of its own, encoders of two blocks in float32."""
    config = FastConformerCTCConfig(**SHAPES[shape], vocab_size=BLANK + 1)
    estimate = estimate_one_pass_bytes(config, 100 * seconds, is_local=is_local)
    assert 1.0 <= estimate / (measured_megabytes * 1e6) < 3.0


def test_the_estimate_grows_with_length_and_width() -> None:
    config = build_config("ctc")
    estimates = [estimate_one_pass_bytes(config, mel_length) for mel_length in (1, 1000, 10**5, 10**6)]
    assert estimates == sorted(estimates)
    assert estimate_one_pass_bytes(config, 10**5, 2) < estimates[2]
    assert estimate_one_pass_bytes(config, 10**6, is_local=True) < estimates[3]
    assert estimate_one_pass_bytes(config, 10**5, device_type="cuda") > estimates[2]


# Milliseconds for a second of audio, float32, two threads of a CPU with AVX2, encoders of a few blocks: full attention
# in clips of 30 s and 120 s, four of 60 s together, and local attention for 120 s.
MEASURED = {
    "110m": ({"num_mel_bins": 80, "hidden_size": 512, "num_hidden_layers": 4}, (11.60, 13.51, 10.16, 10.56)),
    "0.6b": ({"num_mel_bins": 128, "hidden_size": 1024, "num_hidden_layers": 2}, (18.18, 20.64, 17.03, 16.79)),
}


@pytest.mark.parametrize("shape", MEASURED)
def test_ratios_of_work_are_those_of_measured_times(shape: str) -> None:
    options, measured = MEASURED[shape]
    config = FastConformerCTCConfig(**options, intermediate_size=4 * options["hidden_size"], vocab_size=BLANK + 1)
    works = (
        estimate_encoder_work(config, 375) / 30,
        estimate_encoder_work(config, 1500) / 120,
        estimate_encoder_work(config, 3000, WindowPlan(750, 0, 0), windows_per_batch=4) / 240,
        estimate_encoder_work(config, 1500, keys_per_frame=384) / 120,
    )
    for work, seconds in zip(works, measured, strict=True):
        assert work / works[3] == pytest.approx(seconds / measured[3], rel=0.15)


def test_work_of_windows_is_that_of_all_they_see() -> None:
    config = build_config("ctc")
    whole = estimate_encoder_work(config, 1000)
    assert estimate_encoder_work(config, 1000, WindowPlan(1000, 25, 25)) == whole
    # Two windows that see 1050 frames, all keys limited alike.
    limited = estimate_encoder_work(config, 1000, keys_per_frame=10)
    cut = estimate_encoder_work(config, 1000, WindowPlan(525, 25, 25), keys_per_frame=10, windows_per_batch=2)
    assert limited < cut < 1.05 * limited
    # What full attention saves when it is cut, and what short windows cost in context.
    assert estimate_encoder_work(config, 10**5, WindowPlan(750, 25, 25)) < estimate_encoder_work(config, 10**5)
    short, long = (
        estimate_encoder_work(config, 10**5, WindowPlan(length, 25, 25), keys_per_frame=10) for length in (100, 500)
    )
    assert short > 1.5 * long


def test_work_grows_with_length_faster_where_all_is_seen() -> None:
    config = build_config("ctc")
    assert estimate_encoder_work(config, 2000) > 2 * estimate_encoder_work(config, 1000)
    local = [estimate_encoder_work(config, length, keys_per_frame=100) for length in (10**4, 10**6)]
    assert 90 < local[1] / local[0] <= 100
