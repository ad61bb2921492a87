"""Live streams in a file: the state of `FastConformerEncoderCache` as safetensors, checked when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..configuration_fastconformer import FastConformerConfig
from ..modeling.encoder_cache import FastConformerEncoderCache
from ..modeling.streaming_schedule import StreamingSchedule
from ..validation import reading, require

FORMAT = "fastconformer_encoder_cache"
FORMAT_VERSION = "1"


def save_encoder_cache(cache: FastConformerEncoderCache, path: str | Path) -> None:
    """Write live streams to a file, from which `load_encoder_cache` goes on."""
    metadata = {"format": FORMAT, "version": FORMAT_VERSION, "schedule": json.dumps(cache.describe_schedule())}
    tensors = {name: tensor.contiguous() for name, tensor in cache.state_dict().items()}
    save_file(tensors, str(path), metadata=metadata)


# What inference mode makes could not be changed outside of it.
@torch.inference_mode(False)
def load_encoder_cache(
    path: str | Path, config: FastConformerConfig, device: torch.device | str = "cpu"
) -> FastConformerEncoderCache:
    """
    Read live streams from a file of `save_encoder_cache`.

    Args:
        path: The file.
        config: That of the model, which must be the model of the streams.
        device: Where the tensors go.

    Raises:
        ValueError: for a file that is missing, no such file, damaged, or that of another model; it names the file.
    """
    name, expected = str(path), "a file of save_encoder_cache, of streams of this model"
    with reading(name, expected), safe_open(name, framework="pt", device=str(device)) as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, value in (("format", FORMAT), ("version", FORMAT_VERSION)):
        require(metadata.get(key) == value, f"{name}: {key}", metadata.get(key), repr(value))
    with reading(name, expected):
        schedule = StreamingSchedule.of(config, **json.loads(metadata["schedule"]))
        return FastConformerEncoderCache.from_state(config, schedule, tensors)
