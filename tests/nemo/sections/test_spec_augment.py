"""The section of SpecAugment, read and written."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer import FastConformerConfig
from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.sections.spec_augment import write_spec_augment

SECTION: dict[str, Any] = {
    "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
    "freq_masks": 2,
    "time_masks": 10,
    "freq_width": 27,
    "time_width": 0.05,
}
OPTIONS = {"mask_feature_count": 2, "mask_time_count": 10, "mask_feature_width": 27, "mask_time_width": 0.05}


def read(config: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(map_config(config).config).items() if name.startswith("mask_")}


@pytest.mark.parametrize("kind", ["ctc", "tdt", "hybrid_rnnt_ctc"])
def test_counts_and_widths(kind: str, nemo_config: Any) -> None:
    usual = {name: getattr(FastConformerConfig(), name) for name in read(nemo_config(kind))}
    config = nemo_config(kind) | {"spec_augment": SECTION}
    assert read(config) == usual | OPTIONS
    assert map_config(config).config.has_spec_augment
    config["spec_augment"] = {
        "cls": SECTION["_target_"],
        "params": {"rect_masks": 5, "rect_time": 25, "time_width": 1.0},
    }
    found = read(config)
    rectangles = {"mask_rectangle_count": 5, "mask_rectangle_frames": 25}
    assert found == usual | rectangles | {"mask_time_width": 1.0}
    assert isinstance(found["mask_time_width"], float)
    config["spec_augment"] = None
    assert read(config) == usual


def test_another_augmentation_is_left_out_and_told(nemo_config: Any) -> None:
    section = {"_target_": "nemo.collections.asr.modules.MaskedPatchAugmentation", "patch_size": 48}
    mapped = map_config(nemo_config("ctc") | {"spec_augment": section})
    assert not mapped.config.has_spec_augment
    assert "MaskedPatchAugmentation is not supported" in mapped.dropped["spec_augment"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_width": 1.5}, r"spec_augment\.time_width=1\.5 is not supported; expected an integer, or a share"),
        ({"freq_masks": 0.5}, r"spec_augment\.freq_masks=0\.5 is not supported; expected an integer"),
        ({"time_mask": 2}, r"spec_augment\.time_mask=2 is not supported; expected one of"),
    ],
)
def test_values_are_refused(change: dict[str, Any], message: str, nemo_config: Any) -> None:
    with pytest.raises(ValueError, match=message):
        map_config(nemo_config("ctc") | {"spec_augment": SECTION | change})


def test_written_and_read_again(nemo_config: Any) -> None:
    assert write_spec_augment(FastConformerConfig()) == {}
    written = write_spec_augment(FastConformerConfig(**OPTIONS))
    assert SECTION.items() <= written.items()
    assert read(nemo_config("tdt") | {"spec_augment": written}) == read(nemo_config("tdt") | {"spec_augment": SECTION})
