"""Fields that only training reads: what is accepted, and that they are saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)

HYBRID = {"has_ctc_head": True}
REFUSED: list[tuple[type[FastConformerConfig], dict[str, Any], str]] = [
    (FastConformerConfig, {"mask_time_count": -1}, "mask_time_count=-1 is not supported; expected an integer of 0"),
    (FastConformerConfig, {"mask_feature_width": -3}, "mask_feature_width=-3"),
    (FastConformerConfig, {"mask_rectangle_frames": 2**20}, "mask_rectangle_frames=1048576"),
    (FastConformerConfig, {"mask_time_width": 1.5}, r"mask_time_width=1\.5 .* a share of the clip from 0\.0 to 1\.0"),
    (FastConformerConfig, {"mask_value": float("nan")}, "mask_value=nan"),
    (FastConformerCTCConfig, {"intermediate_ctc_layers": [17]}, r"intermediate_ctc_layers=\[17\] .* 0 to 16"),
    (FastConformerCTCConfig, {"intermediate_ctc_layers": [3]}, "a number of 0 or more for each of the 1"),
    (
        FastConformerCTCConfig,
        {"intermediate_ctc_layers": [3, 5], "intermediate_ctc_weights": [0.5, 0.5]},
        r"intermediate_ctc_weights=\[0\.5, 0\.5\] .* less than 1 in sum",
    ),
    (
        FastConformerRNNTConfig,
        {"intermediate_ctc_layers": [3], "intermediate_ctc_weights": [0.5]},
        "None where has_ctc_head is False",
    ),
    (FastConformerRNNTConfig, {"transducer_loss_reduction": "mean_batch"}, "transducer_loss_reduction='mean_batch'"),
    (FastConformerRNNTConfig, {"fastemit_lambda": -0.1}, r"fastemit_lambda=-0\.1"),
    (FastConformerTDTConfig, {"transducer_gradient_clamp": -1}, "transducer_gradient_clamp=-1"),
    (FastConformerCTCConfig, {"ctc_loss_reduction": "none"}, "ctc_loss_reduction='none'"),
]


@pytest.mark.parametrize(("config_class", "options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_values_are_refused(config_class: type[FastConformerConfig], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_class(**options)


def test_fields_are_saved_and_loaded(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **HYBRID,
        "apply_spec_augment": False,
        "mask_time_count": 2,
        "mask_time_width": 1.0,  # a share, not one frame
        "mask_feature_count": 3,
        "mask_value": -1.5,
        "intermediate_ctc_layers": [1, 5],
        "intermediate_ctc_weights": [0.1, 0.2],
        "transducer_loss_reduction": "mean_volume",
        "fastemit_lambda": 0.005,
        "transducer_gradient_clamp": 1.0,
    }
    FastConformerTDTConfig(**options).save_pretrained(tmp_path)
    loaded = FastConformerTDTConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in options} == options
    assert isinstance(loaded.mask_time_width, float)
    # The encoder of a checkpoint with heads has the masks too, and what is given next to a file counts.
    encoder = FastConformerConfig.from_pretrained(tmp_path, apply_spec_augment=True)
    assert encoder.mask_time_count == 2
    assert encoder.has_spec_augment
    assert not loaded.has_spec_augment
    assert not FastConformerConfig().has_spec_augment
