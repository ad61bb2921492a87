"""The Wyoming protocol of Home Assistant, over TCP: a line of JSON, data, and audio; a command in, its text out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers.utils import logging

from ..inference.file import check_options
from ..inference.reading import AudioClip
from ..tokenization_languages import writable_languages
from ..version import __version__
from .errors import ApiError, error_of
from .fields import FileRequest, check_keywords
from .file_queue import FileJob
from .live_socket import take_text, take_texts
from .service import Service

logger = logging.get_logger(__name__)

PROJECT = "transformers-fastconformer"
MAX_LINE_BYTES = 64 * 1024
MAX_DATA_BYTES = 1024 * 1024
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
# A command by voice; longer audio is for the other doors.
MAX_SECONDS = 300.0
WIDTHS = {2: ("<i2", 1 << 15), 4: ("<i4", 1 << 31)}


@dataclass
class Command:
    """
    A command that is being spoken.

    Args:
        model: Name of the model, or None.
        language: Code of its language, or None.
        keywords: Names and terms that its text prefers.
        rate, width, channels: Of its audio.
        pieces: The audio so far.
        seconds: Its length.
    """

    model: str | None = None
    language: str | None = None
    keywords: tuple[str, ...] = ()
    rate: int = 16000
    width: int = 2
    channels: int = 1
    pieces: list[bytes] = field(default_factory=list)
    seconds: float = 0.0

    def set_audio(self, data: Mapping[str, Any]) -> None:
        """Set the form of the audio."""
        for name, accepted in (("rate", range(8000, 48001)), ("width", WIDTHS), ("channels", range(1, 9))):
            value = data.get(name)
            if not isinstance(value, int) or value not in accepted:
                raise ApiError(f"{name}={str(value)[:20]} of the audio is not supported.", 400, name)
            setattr(self, name, value)

    def add(self, payload: bytes) -> None:
        """Add audio."""
        self.seconds += len(payload) / (self.rate * self.width * self.channels)
        if self.seconds > MAX_SECONDS:
            raise ApiError(f"The command is longer than {MAX_SECONDS:g} s.", 413)
        self.pieces.append(payload)

    def to_samples(self) -> np.ndarray:
        """(samples,) float32."""
        kind, scale = WIDTHS[self.width]
        data = b"".join(self.pieces)
        data = data[: len(data) - len(data) % (self.width * self.channels)]
        samples = np.frombuffer(data, dtype=kind).astype(np.float32) / scale
        mean: np.ndarray = samples.reshape(-1, self.channels).mean(axis=1, dtype=np.float32)
        return mean


class WyomingServer:
    """
    The server of the protocol, on a port of its own.

    Args:
        service: Models and files that wait.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._languages: dict[str, list[str]] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._connect, host, port, limit=MAX_LINE_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self._service.options.max_connections:
            writer.close()
            return
        self._connections.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = Command()
        while True:
            try:
                event = await asyncio.wait_for(_read(reader), self._service.options.idle_seconds)
                if event is None:
                    return
                kind, data, payload = event
                if kind == "describe":
                    await _write(writer, "info", await asyncio.to_thread(self._describe))
                elif kind == "ping":
                    await _write(writer, "pong", data)
                elif kind == "transcribe":
                    command = Command(
                        model=take_text(data, "name"),
                        language=take_text(data, "language"),
                        keywords=check_keywords(
                            (*take_texts(data, "transcript_names"), *take_texts(data, "transcript_terms"))
                        ),
                    )
                elif kind == "audio-start":
                    command.pieces, command.seconds = [], 0.0
                    command.set_audio(data)
                elif kind == "audio-chunk":
                    command.set_audio(data)
                    command.add(payload)
                elif kind == "audio-stop":
                    text = await self._transcribe(command)
                    language = {} if command.language is None else {"language": command.language}
                    await _write(writer, "transcript", {"text": text, **language})
                    command = Command()
                # Other events are of services that this is not: the protocol says to leave them.
            except (ApiError, ValueError, ImportError) as error:
                found = error_of(error)
                await _write(writer, "error", {"text": found.message, "code": found.code})
                return

    async def _transcribe(self, command: Command) -> str:
        samples = command.to_samples()
        if not samples.shape[0]:
            return ""
        name = self._service.models.require_name(command.model)
        loaded = await asyncio.to_thread(self._service.models.acquire, name)
        try:
            request = FileRequest(language=command.language, keywords=command.keywords, response_format="text")
            options = request.to_options(self._service.options, loaded.is_multitask)
            await asyncio.to_thread(check_options, loaded.model, loaded.processor, options)
            clip = AudioClip({"raw": samples, "sampling_rate": command.rate}, label="audio")
            job = FileJob(loaded.model, loaded.processor, clip, command.seconds, options)
            self._service.files.submit(job)
            try:
                return (await asyncio.wrap_future(job.future)).text
            finally:
                job.drop()
        finally:
            self._service.models.release(name)

    def _describe(self) -> dict[str, Any]:
        attribution = {"name": PROJECT, "url": f"https://pypi.org/project/{PROJECT}/"}
        shared = {"attribution": attribution, "installed": True, "version": __version__}
        models = [
            {"name": name, "description": name, "languages": self._languages_of(name), **shared}
            for name in self._service.models.names
        ]
        program = {
            "name": PROJECT,
            "description": "FastConformer speech recognition",
            "models": models,
            "supports_transcript_streaming": False,
            "requires_external_vad": True,
            **shared,
        }
        return {"asr": [program]}

    def _languages_of(self, name: str) -> list[str]:
        """Codes of the languages of a model, which is loaded for that once."""
        if name not in self._languages:
            with self._service.models.using(name) as loaded:
                prompts = getattr(loaded.model.config, "prompt_languages", None)
                self._languages[name] = sorted(prompts) if prompts else writable_languages(loaded.processor.tokenizer)
        return self._languages[name]


async def _read(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any], bytes] | None:
    """The next event: its type, data and payload; None at the end."""
    try:
        line = await reader.readline()
    except ValueError:
        raise ApiError(f"A line is longer than {MAX_LINE_BYTES} bytes.", 413) from None
    if not line:
        return None
    header = _parse(line)
    lengths = [header.get(name) or 0 for name in ("data_length", "payload_length")]
    for length, limit in zip(lengths, (MAX_DATA_BYTES, MAX_PAYLOAD_BYTES), strict=True):
        if not isinstance(length, int) or not 0 <= length <= limit:
            raise ApiError(f"A part of the event is longer than {limit} bytes.", 413)
    data = header.get("data") or {}
    if not isinstance(data, dict) or not isinstance(header.get("type"), str):
        raise ApiError("The event cannot be read; expected a type and data.")
    if lengths[0]:
        data = {**data, **_parse(await reader.readexactly(lengths[0]))}
    return header["type"], data, await reader.readexactly(lengths[1]) if lengths[1] else b""


def _parse(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ApiError("The event cannot be read; expected a line of JSON.")
    return found


async def _write(writer: asyncio.StreamWriter, kind: str, data: Mapping[str, Any]) -> None:
    encoded = json.dumps(data, ensure_ascii=False).encode()
    header = {"type": kind, "version": __version__, "data_length": len(encoded)}
    writer.write(json.dumps(header).encode() + b"\n" + encoded)
    await writer.drain()
