"""Options of the server, made once by the command and handed on whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..inference.loading import AUTO_DEVICE, DEMONSTRATION_NAME, DTYPES, STREAMING_DEMONSTRATION_NAME
from ..validation import is_number, require, require_choice, require_count

INSTALL_COMMAND = 'pip install "transformers-fastconformer[server]"'


class ServedModel(NamedTuple):
    """
    A model that clients may name.

    Args:
        name: Name in requests.
        source: Checkpoint as `load_model` takes it.
    """

    name: str
    source: str

    @classmethod
    def parse(cls, text: str) -> ServedModel:
        """A checkpoint, or `NAME=CHECKPOINT` for another name in requests."""
        name, equals, source = text.partition("=")
        require(
            bool(name.strip()) and (bool(source.strip()) or not equals),
            "--model",
            text,
            "CHECKPOINT or NAME=CHECKPOINT",
        )
        return cls(name.strip(), (source if equals else name).strip())


DEFAULT_MODELS = (
    ServedModel(DEMONSTRATION_NAME, DEMONSTRATION_NAME),
    ServedModel(STREAMING_DEMONSTRATION_NAME, STREAMING_DEMONSTRATION_NAME),
)


@dataclass(frozen=True)
class ServerOptions:
    """
    Options of the server.

    Args:
        models: Models that clients may name; the first is that of requests that name none.
        device: Device of the models, such as `"cpu"` or `"cuda:1"`; `"auto"`: a GPU if this machine has one.
        dtype: Type of their weights, as in `load_model`.
        diarize: Sortformer checkpoint that tells the speakers of files apart, for clients that ask for it; None: none.
        api_key: Key that clients must send; None: none is asked for.
        max_loaded_models: Models in memory at a time; the one that was not used for longest makes room.
        unload_seconds: Seconds without use after which a model leaves the memory; None: it stays.
        max_upload_bytes: Largest body of a request.
        max_audio_seconds: Longest recording.
        upload_seconds: Seconds that the body of a request may take to come.
        max_queue: Files that may wait or be worked on.
        max_wait_seconds: Files are refused where those before them would take longer, as measured.
        max_streams: Live streams at a time.
        max_load: Share of real time that live streams may take; more streams are refused.
        max_lag_seconds: A live stream that is late by more is ended.
        max_connections: Connections at a time.
        idle_seconds: A live stream whose client is silent for so long is ended.
        gather_ms: Time for which requests are gathered that go through the model together.
        batch_size, batch_seconds: As in [`TranscriptionOptions`].
        cors_origins: Origins whose pages may ask, such as `"https://example.org"`; none by default.

    Raises:
        ValueError: for a value that is not accepted; the message names the option.
    """

    models: Sequence[ServedModel] = DEFAULT_MODELS
    device: str = AUTO_DEVICE
    dtype: str = "auto"
    diarize: str | None = None
    api_key: str | None = None
    max_loaded_models: int = 4
    unload_seconds: float | None = None
    max_upload_bytes: int = 2 * 1024**3
    max_audio_seconds: float = 12 * 3600.0
    upload_seconds: float = 900.0
    max_queue: int = 128
    max_wait_seconds: float = 120.0
    max_streams: int = 64
    max_load: float = 0.8
    max_lag_seconds: float = 5.0
    max_connections: int = 512
    idle_seconds: float = 60.0
    gather_ms: float = 10.0
    batch_size: int = 8
    batch_seconds: float = 240.0
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        names = [model.name for model in self.models]
        require(bool(names) and len(set(names)) == len(names), "models", names, "one or more, each name once")
        require_choice("dtype", self.dtype, DTYPES)
        require(self.api_key is None or len(self.api_key) > 0, "api_key", self.api_key, "a text that is not empty")
        for name in (
            "max_loaded_models",
            "max_upload_bytes",
            "max_queue",
            "max_streams",
            "max_connections",
            "batch_size",
        ):
            require_count(name, getattr(self, name))
        for name in (
            "max_audio_seconds",
            "upload_seconds",
            "max_wait_seconds",
            "max_load",
            "max_lag_seconds",
            "idle_seconds",
            "batch_seconds",
        ):
            value = getattr(self, name)
            require(is_number(value) and value > 0, name, value, "a number above 0")
        is_idle = self.unload_seconds is None or (is_number(self.unload_seconds) and self.unload_seconds > 0)
        require(is_idle, "unload_seconds", self.unload_seconds, "a number above 0, or None")
        is_window = is_number(self.gather_ms) and 0 <= self.gather_ms <= 1000
        require(is_window, "gather_ms", self.gather_ms, "milliseconds from 0 to 1000")
