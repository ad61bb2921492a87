"""The parts of a server that its protocols share: models, the files that wait, live streams, numbers."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from ..diarization.speaker_finder import SpeakerFinder
from .device_turn import DeviceTurn
from .errors import ApiError
from .file_queue import FileQueue
from .live import LiveStreams
from .metrics import ServerMetrics
from .models import ModelStore
from .options import ServerOptions


class Service:
    """
    All that works, apart from protocols.

    Args:
        options: Options of the server.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.turn = DeviceTurn()
        self.models = ModelStore(options)
        self.speakers = None if options.diarize is None else SpeakerFinder(options.diarize, options.device)
        self.files = FileQueue(
            self.turn,
            options.gather_ms / 1000,
            options.max_queue,
            options.max_wait_seconds,
            lambda audio, busy: self.metrics.count_work(audio, busy),
        )
        self.streams = LiveStreams(options, self.models, self.turn)
        self.metrics = ServerMetrics(
            lambda: self.files.num_jobs, lambda: self.streams.num_open, lambda: len(self.models.loaded)
        )

    def close(self) -> None:
        """Finish what is there, and end all threads."""
        self.files.close()
        self.streams.close()

    def require_key(self, headers: Mapping[str, str], others: tuple[str | None, ...] = ()) -> None:
        """
        Raise unless a request has the key, if one is asked for; the time of the comparison says nothing of the key.

        Args:
            headers: Those of the request; `Authorization: Bearer KEY` (Deepgram: `Token KEY`) or `X-API-Key`.
            others: Keys that came another way.

        Raises:
            ApiError: 401.
        """
        if self.options.api_key is None:
            return
        expected = self.options.api_key.encode()
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = (bearer if kind.lower() in ("bearer", "token") else None, headers.get("x-api-key"), *others)
        if not any(hmac.compare_digest(key.strip().encode(), expected) for key in given if key is not None):
            raise ApiError("The API key is missing or wrong.", 401, code="invalid_api_key")
