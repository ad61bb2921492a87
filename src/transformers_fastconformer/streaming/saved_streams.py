"""
Live streams in files: all that a `SavedStream` holds, as tensors and JSON in one safetensors file, checked when read.

The state of a stream is made of few kinds of values, all of them named in `KINDS`; nothing else is written or made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from ..decoding.phrase_boosting import PhraseBoosting
from ..decoding.state import CTCState, TransducerState
from ..decoding.words import GroupedWord, WordState, WordToken
from ..modeling.encoder_cache import FastConformerEncoderCache
from ..modeling.streaming_schedule import StreamingSchedule
from ..temporary_files import write_whole
from ..tokenization_piece_text import PieceTextState
from ..validation import reading, require
from .chunk_encoders import BufferState
from .endpointing import BlankState, EndpointingOptions
from .engine import StreamingEngine
from .live_stream import SavedStream
from .live_text import LiveTextState
from .options import StreamOptions
from .text import NewTokens, TextState

FORMAT, FORMAT_VERSION = "fastconformer_stream", "1"
KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        SavedStream,
        StreamOptions,
        PhraseBoosting,
        EndpointingOptions,
        LiveTextState,
        TextState,
        PieceTextState,
        WordState,
        WordToken,
        GroupedWord,
        BlankState,
        NewTokens,
        BufferState,
        TransducerState,
        CTCState,
    )
}
KIND, TENSOR, CACHE, BYTES, TUPLE, MAPPING = "kind", "tensor", "cache", "bytes", "tuple", "mapping"


def save_stream(saved: SavedStream, path: str | Path, engine: StreamingEngine) -> None:
    """
    Write a stream to a file, from which `load_stream` goes on, in this or in another process.

    Args:
        saved: What [`StreamingEngine.save`] gave.
        path: The file; it is written whole or not at all.
        engine: The engine of the stream.
    """
    tensors: dict[str, torch.Tensor] = {}
    state = json.dumps(_to_plain(saved, tensors))
    metadata = {"format": FORMAT, "version": FORMAT_VERSION, "engine": engine.description, "state": state}
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_whole(Path(path), save(stored, metadata=metadata))


# What inference mode makes could not be changed outside of it.
@torch.inference_mode(False)
def load_stream(path: str | Path, engine: StreamingEngine) -> SavedStream:
    """
    Read a stream from a file of `save_stream`, for [`StreamingEngine.restore`].

    Args:
        path: The file.
        engine: The engine that goes on with it, alike to the one that it was saved from.

    Raises:
        ValueError: for a file that is missing, damaged or of another kind, and for a stream of an engine with another
            model or other options; it names the file.
    """
    name = str(path)
    expected = "a file of save_stream, of a stream of an engine like this one"
    with reading(name, expected), safe_open(name, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, value in (("format", FORMAT), ("version", FORMAT_VERSION), ("engine", engine.description)):
        require(metadata.get(key) == value, f"{name}: {key}", metadata.get(key), repr(value))
    with reading(name, expected):
        saved = _from_plain(json.loads(metadata["state"]), tensors, engine)
        require(isinstance(saved, SavedStream), "state", type(saved).__name__, "SavedStream")
        return saved


def _to_plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A value as JSON has it; tensors go into `tensors`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, FastConformerEncoderCache):
        return {CACHE: value.describe_schedule(), "state": _to_plain(value.state_dict(), tensors)}
    if isinstance(value, bytes):
        return {BYTES: value.hex()}
    kind = type(value).__name__
    if KINDS.get(kind) is type(value):
        return {KIND: kind, "fields": {key: _to_plain(getattr(value, key), tensors) for key in _names(value)}}
    if isinstance(value, Mapping):
        return {MAPPING: {key: _to_plain(item, tensors) for key, item in value.items()}}
    if isinstance(value, tuple | list):
        plain = [_to_plain(item, tensors) for item in value]
        return {TUPLE: plain} if isinstance(value, tuple) else plain
    raise TypeError(f"a {type(value).__name__} is not part of the state of a stream")


def _names(value: Any) -> tuple[str, ...]:
    """The fields of a dataclass or a named tuple."""
    return value._fields if hasattr(value, "_fields") else tuple(item.name for item in fields(value))


def _from_plain(plain: Any, tensors: Mapping[str, torch.Tensor], engine: StreamingEngine) -> Any:
    """What `_to_plain` made of a value, as it was."""

    def read(item: Any) -> Any:
        return _from_plain(item, tensors, engine)

    if isinstance(plain, list):
        return [read(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    readers: dict[str, Callable[[], Any]] = {
        TENSOR: lambda: tensors[plain[TENSOR]],
        CACHE: lambda: FastConformerEncoderCache.from_state(
            engine.model.config, StreamingSchedule.of(engine.model.config, **plain[CACHE]), read(plain["state"])
        ).to(engine.model.device),
        BYTES: lambda: bytes.fromhex(plain[BYTES]),
        KIND: lambda: KINDS[plain[KIND]](**{key: read(item) for key, item in plain["fields"].items()}),
        MAPPING: lambda: {key: read(item) for key, item in plain[MAPPING].items()},
        TUPLE: lambda: tuple(read(item) for item in plain[TUPLE]),
    }
    return next(reader for key, reader in readers.items() if key in plain)()
