"""Kernels of multi-talker models, which tell the encoder whom to listen to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...checkpoints.key_table import Read, Row, Values
from ...configuration_fastconformer import FastConformerConfig
from ...validation import is_integer
from .common import NemoReader

MULTI_TALKER_CLASS = "EncDecMultiTalkerRNNTBPEModel"
PREFIXES = ("spk_kernels.", "bg_spk_kernels.")

SPEAKER_KERNELS: dict[str, Row] = {
    "spk_kernel_type": Read("map_speaker_kernels"),
    "spk_kernel_layers": Read("map_speaker_kernels", (0,)),
    "add_bg_spk_kernel": Read("map_speaker_kernels", True),
}


def map_speaker_kernels(
    sections: Values, nemo_class: str | None, num_layers: int, tensor_names: Iterable[str] | None, reader: NemoReader
) -> dict[str, Any]:
    """
    Arguments of a multi-talker model. The kernel before the first block (NeMo's layer 0) always acts, those after
    blocks only where a speaker is chosen (NeMo 3.0's `SpeakerKernelMixin`).
    """
    kind, layers = sections["spk_kernel_type"], sections["spk_kernel_layers"]
    if nemo_class != MULTI_TALKER_CLASS or not isinstance(layers, list):
        return {}
    if kind != "ff":
        raise reader.refuse("spk_kernel_type", kind, "'ff'")
    if not all(is_integer(layer) and 0 <= layer <= num_layers for layer in layers):
        raise reader.refuse("spk_kernel_layers", layers, f"numbers of blocks, 0 to {num_layers}")
    if tensor_names is not None:
        stored = {int(name.split(".")[1]) for name in tensor_names if name.startswith(PREFIXES)}
        if stored != set(layers):
            raise reader.refuse("spk_kernel_layers", layers, f"those of the weights, {sorted(stored)}")
    return {
        "has_speaker_kernel": 0 in layers,
        "later_speaker_kernels": sorted({layer for layer in layers if layer > 0}),
        "has_background_kernel": bool(layers) and bool(sections["add_bg_spk_kernel"]),
    }


def kernel_layers(config: FastConformerConfig) -> list[int]:
    """NeMo's numbers of the layers that have kernels; 0 is before the first block."""
    return [0] * config.has_speaker_kernel + list(config.later_speaker_kernels)
