"""Masks of features in training: `nemo.collections.asr.modules.SpectrogramAugmentation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checkpoints.key_table import Drop, Map, NotAcceptedError, Read, Table, Values, integer, number
from ...configuration_training import SpecAugmentFields
from ...validation import is_integer
from .common import NemoReader, class_of

CLASS = "SpectrogramAugmentation"


def _time_width(value: Any, values: Values) -> int | float:
    if is_integer(value):
        return int(value)
    share = float(number(value, values))
    if not 0.0 <= share <= 1.0:
        raise NotAcceptedError("an integer, or a share of the clip from 0.0 to 1.0")
    return share


SPEC_AUGMENT: Table = {
    "_target_": Read("map_spec_augment"),
    "time_masks": Map("mask_time_count", 0, integer),
    "time_width": Map("mask_time_width", 10, _time_width),
    "freq_masks": Map("mask_feature_count", 0, integer),
    "freq_width": Map("mask_feature_width", 10, integer),
    "rect_masks": Map("mask_rectangle_count", 0, integer),
    "rect_time": Map("mask_rectangle_frames", 5, integer),
    "rect_freq": Map("mask_rectangle_features", 20, integer),
    "mask_value": Map("mask_value", 0.0, number),
    "rng": Drop("masks are drawn from torch's generator"),
    "use_vectorized_spec_augment": Drop("bands are drawn as the vectorised code of NeMo does by default"),
    "use_numba_spec_augment": Drop("bands are drawn as the vectorised code of NeMo does by default"),
}


def map_spec_augment(section: Any, reader: NemoReader) -> dict[str, Any]:
    """Arguments for the masks; none without the section, and for another kind of augmentation."""
    if section is None:
        return {}
    section = reader.without_class_nesting(section, "spec_augment")
    if isinstance(section, Mapping) and class_of(section.get("_target_", CLASS)) != CLASS:
        name = class_of(section["_target_"])
        reader.dropped["spec_augment"] = f"{name} is not supported: training here augments only by {CLASS}"
        return {}
    arguments, _ = reader.apply(section, SPEC_AUGMENT, "spec_augment")
    return arguments


def write_spec_augment(config: SpecAugmentFields) -> dict[str, Any]:
    """The section of a configuration; empty where it has the values of one without masks."""
    options = {
        key: (row.targets, getattr(config, row.targets))
        for key, row in SPEC_AUGMENT.items()
        if isinstance(row, Map) and isinstance(row.targets, str)
    }
    usual = SpecAugmentFields()
    if all(value == getattr(usual, name) for name, value in options.values()):
        return {}
    return {"_target_": f"nemo.collections.asr.modules.{CLASS}", **{key: value for key, (_, value) in options.items()}}
