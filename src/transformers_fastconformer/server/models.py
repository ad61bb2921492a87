"""The models of the server: loaded at their first use, unloaded when they are not used."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers.utils import logging

from ..inference.loading import load_model
from ..inference.multitask_plan import is_multitask
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from .errors import ApiError
from .options import ServedModel, ServerOptions

logger = logging.get_logger(__name__)


class LoadedModel(NamedTuple):
    """A model in memory."""

    name: str
    model: FastConformerRecognizer
    processor: FastConformerProcessor

    @property
    def is_multitask(self) -> bool:
        """True for a model with prompts, which translates."""
        return is_multitask(self.model)


@dataclass
class _Entry:
    served: ServedModel
    loaded: LoadedModel | None = None
    num_users: int = 0
    used_seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class ModelStore:
    """
    Models by name.

    Args:
        options: Options of the server.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._entries = {served.name: _Entry(served) for served in options.models}
        self._lock = threading.Lock()
        self.started_seconds = int(time.time())

    @property
    def names(self) -> list[str]:
        """Names that clients may use."""
        return list(self._entries)

    @property
    def loaded(self) -> list[str]:
        """Names of those in memory."""
        return [name for name, entry in self._entries.items() if entry.loaded is not None]

    def require_name(self, name: str | None) -> str:
        """
        The name of a served model; the first for None.

        Raises:
            ApiError: 404 for another name, with those there are.
        """
        if name is None or name == "":
            return next(iter(self._entries))
        if name not in self._entries:
            raise ApiError(
                f"model={name[:200]!r} is not served here; expected one of {', '.join(self._entries)}.",
                404,
                "model",
                "model_not_found",
            )
        return name

    @contextmanager
    def using(self, name: str) -> Iterator[LoadedModel]:
        """
        A model, loaded if it is not, that stays in memory until the block ends. Loading takes its time: not for the
        thread of the event loop.
        """
        loaded = self.acquire(name)
        try:
            yield loaded
        finally:
            self.release(name)

    def acquire(self, name: str) -> LoadedModel:
        """A model as in `using`, until `release`."""
        entry = self._entries[name]
        with self._lock:
            entry.num_users += 1
        try:
            with entry.lock:
                if entry.loaded is None:
                    self._make_room()
                    started = time.monotonic()
                    pair = load_model(entry.served.source, device=self._options.device, dtype=self._options.dtype)
                    entry.loaded = LoadedModel(name, *pair)
                    logger.info(f"Loaded {name} in {time.monotonic() - started:.1f} s.")
                return entry.loaded
        except BaseException:
            self.release(name)
            raise

    def release(self, name: str) -> None:
        """End a use."""
        with self._lock:
            entry = self._entries[name]
            entry.num_users -= 1
            entry.used_seconds = time.monotonic()

    def unload_idle(self) -> list[str]:
        """Unload what was not used for `unload_seconds`; their names."""
        limit = self._options.unload_seconds
        if limit is None:
            return []
        now = time.monotonic()
        with self._lock:
            idle = [one for one in self._unused() if now - one.used_seconds >= limit]
            return [_unload(entry) for entry in idle]

    def _make_room(self) -> None:
        with self._lock:
            num_over = len(self.loaded) + 1 - self._options.max_loaded_models
            # Those in use stay, whatever the limit says.
            for entry in sorted(self._unused(), key=lambda one: one.used_seconds)[: max(num_over, 0)]:
                _unload(entry)

    def _unused(self) -> Sequence[_Entry]:
        return [entry for entry in self._entries.values() if entry.loaded is not None and not entry.num_users]


def _unload(entry: _Entry) -> str:
    entry.loaded = None
    logger.info(f"Unloaded {entry.served.name}.")
    return entry.served.name
