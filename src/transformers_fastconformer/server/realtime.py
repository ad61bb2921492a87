"""`/v1/realtime`: transcription sessions of OpenAI's Realtime API, in its current and beta form, and vLLM's form."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect
from transformers.utils import logging

from ..audio.voice_activity import check_voice_activity
from ..streaming.endpointing import SPEECH_STARTED, EndpointingOptions
from ..streaming.updates import StreamUpdate
from .errors import ApiError, error_of, refused_field
from .fields import check_keywords, server_vad_numbers
from .live import LiveRequest, LiveStream
from .live_socket import AudioBytes, close, may_open, offered_protocols, parse_message, receive, take_text, take_texts
from .service import Service
from .stream_api import take_delay

logger = logging.get_logger(__name__)

# Names of formats to encodings and rates in Hz; of PCM the current form says the rate.
FORMATS = {
    "audio/pcm": ("pcm16", 24000),
    "pcm16": ("pcm16", 24000),
    "audio/pcmu": ("ulaw", 8000),
    "g711_ulaw": ("ulaw", 8000),
    "audio/pcma": ("alaw", 8000),
    "g711_alaw": ("alaw", 8000),
}
PCM_RATES = (16000, 24000)
VLLM_RATE = 16000
DEFAULT_VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
TRANSCRIPTION_FIELDS = ("model", "language", "languages", "keywords", "prompt", "delay")
PREFIX = "conversation.item.input_audio_transcription"


@dataclass(frozen=True)
class Settings:
    """
    What a session is set to.

    Args:
        request: The stream to open.
        encoding: Of its audio.
        format_name: As the client has it.
        turn_detection: `server_vad` with its numbers; None: the client commits.
    """

    request: LiveRequest
    encoding: str = "pcm16"
    format_name: str = "audio/pcm"
    turn_detection: Mapping[str, Any] | None = None


class RealtimeApi:
    """
    The endpoint.

    Args:
        service: Models and live streams.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def serve(self, socket: WebSocket) -> None:
        """Serve a connection to its end."""
        if not await may_open(socket, self._service, (socket.query_params.get("api_key"),)):
            return
        await socket.accept("realtime" if "realtime" in offered_protocols(socket) else None)
        session = RealtimeSession(self._service, socket)
        try:
            with suppress(WebSocketDisconnect):
                await session.run()
        finally:
            await session.close()


class RealtimeSession:
    """
    A session.

    Args:
        service: Models and live streams.
        socket: Its connection, which is accepted.
    """

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service = service
        self._socket = socket
        self._id = _new_id("sess")
        # The beta form announces itself.
        self._is_beta = "realtime=v1" in socket.headers.get("openai-beta", "")
        self._is_vllm = False
        query = socket.query_params
        request = LiveRequest(query.get("model"), 24000, query.get("language"))
        self._settings = Settings(request, turn_detection=DEFAULT_VAD if _has_voice_activity() else None)
        self._stream: LiveStream | None = None
        self._audio = AudioBytes("pcm16")
        self._earlier_seconds = 0.0  # of streams before this one
        self._heard_seconds = 0.0
        self._item: str | None = None
        self._previous_item: str | None = None
        self._item_text = ""
        self._item_start = 0.0

    async def run(self) -> None:
        """Answer messages until the client leaves."""
        await self._send_session("created")
        while True:
            event_id = None
            try:
                message = await receive(self._socket, self._service.options.idle_seconds)
                if isinstance(message, bytes):
                    raise ApiError("Binary messages are not supported; expected JSON.", code="invalid_message")
                event = parse_message(message)
                event_id = event.get("event_id") if isinstance(event.get("event_id"), str) else None
                await self._handle(event)
            except (ApiError, ValueError, ImportError) as error:
                found = error_of(error)
                await self._send_error(found, event_id)
                if found.status in (408, 503):
                    await close(self._socket, found)
                    return

    async def close(self) -> None:
        """Give the place of the stream back."""
        if self._stream is not None:
            await self._stream.close()
            self._stream = None

    async def _handle(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind in ("session.update", "transcription_session.update"):
            await self._update(event, is_beta=kind != "session.update")
        elif kind == "input_audio_buffer.append":
            await self._append(event)
        elif kind == "input_audio_buffer.commit":
            if not self._is_vllm:
                await self._commit()
            elif event.get("final"):
                await self._finish_vllm()
        elif kind == "input_audio_buffer.clear":
            await self.close()
            self._earlier_seconds = self._heard_seconds
            self._item, self._item_text = None, ""
            await self._send({"type": "input_audio_buffer.cleared"})
        else:
            raise ApiError(
                f"type={kind[:80]!r} is not supported; expected session.update, transcription_session.update, "
                "input_audio_buffer.append, .commit or .clear.",
                400,
                "type",
                "invalid_value",
            )

    # Settings

    async def _update(self, event: dict[str, Any], is_beta: bool) -> None:
        session = event.get("session")
        if session is None and not is_beta:
            self._is_vllm = True
            request = LiveRequest(take_text(event, "model"), VLLM_RATE)
            self._service.models.require_name(request.model)
            settings = Settings(request)
        elif not isinstance(session, Mapping):
            raise ApiError("session: expected an object.", 400, "session", "invalid_value")
        elif is_beta:
            settings = self._parse_beta(session)
        else:
            settings = self._parse(session)
        if settings != self._settings:
            if self._stream is not None and self._heard_seconds > self._item_start:
                await self._commit()
            await self.close()
            self._earlier_seconds = self._heard_seconds
            self._settings, self._audio = settings, AudioBytes(settings.encoding)
        if not self._is_vllm:
            await self._send_session("updated", is_beta)

    def _parse(self, session: Mapping[str, Any]) -> Settings:
        """The settings of the current form."""
        _refuse_others(session, ("type", "audio", "include", "id", "object"), "session")
        if session.get("type", "transcription") != "transcription":
            raise refused_field("session.type", "expected transcription; this server does not speak.")
        _refuse_include(session.get("include"))
        audio = _take_object(session, "audio", "session.audio")
        _refuse_others(audio, ("input",), "session.audio")
        given = _take_object(audio, "input", "session.audio.input")
        names = ("format", "transcription", "noise_reduction", "turn_detection")
        _refuse_others(given, names, "session.audio.input")
        if given.get("noise_reduction") is not None:
            raise refused_field("noise_reduction", "expected null; audio is taken as it is.")
        settings = self._settings
        if given.get("format") is not None:
            form = _take_object(given, "format", "format")
            settings = _set_format(settings, form.get("type"), form.get("rate"))
        return self._set_rest(settings, given, given.get("transcription"))

    def _parse_beta(self, session: Mapping[str, Any]) -> Settings:
        """The settings of the beta form."""
        names = ("input_audio_format", "input_audio_transcription", "turn_detection", "input_audio_noise_reduction")
        _refuse_others(session, (*names, "include", "id", "object", "modalities"), "session")
        _refuse_include(session.get("include"))
        if session.get("input_audio_noise_reduction") is not None:
            raise refused_field("input_audio_noise_reduction", "expected null; audio is taken as it is.")
        settings = self._settings
        if session.get("input_audio_format") is not None:
            settings = _set_format(settings, session["input_audio_format"], None)
        return self._set_rest(settings, session, session.get("input_audio_transcription"))

    def _set_rest(self, settings: Settings, given: Mapping[str, Any], transcription: Any) -> Settings:
        request = settings.request
        if transcription is not None:
            if not isinstance(transcription, Mapping):
                raise ApiError("transcription: expected an object.", 400, "transcription", "invalid_value")
            _refuse_others(transcription, TRANSCRIPTION_FIELDS, "transcription")
            if transcription.get("prompt"):
                raise refused_field("prompt", "live streams take none; expected keywords for names and jargon.")
            request = LiveRequest(
                model=self._service.models.require_name(take_text(transcription, "model") or request.model),
                sampling_rate=request.sampling_rate,
                language=take_text(transcription, "language"),
                languages=take_texts(transcription, "languages"),
                keywords=check_keywords(take_texts(transcription, "keywords")),
                delay=take_delay(dict(transcription)),
                endpointing=request.endpointing,
            )
        turn_detection = settings.turn_detection
        if "turn_detection" in given:
            turn_detection = given["turn_detection"]
            if turn_detection is not None:
                is_known = isinstance(turn_detection, Mapping) and turn_detection.get("type") == "server_vad"
                if not is_known:
                    raise refused_field("turn_detection", "expected null or server_vad.")
                turn_detection = {key: value for key, value in turn_detection.items() if value is not None}
                # Of conversations, which this is not: the defaults say nothing.
                turn_detection = {
                    key: value
                    for key, value in turn_detection.items()
                    if key not in ("create_response", "interrupt_response")
                }
                turn_detection = {"type": "server_vad", **server_vad_numbers(turn_detection, "turn_detection", 500.0)}
        return replace(settings, request=request, turn_detection=turn_detection)

    # Audio

    async def _append(self, event: dict[str, Any]) -> None:
        try:
            data = base64.b64decode(event.get("audio"), validate=True)  # type: ignore[arg-type]
        except (TypeError, ValueError, binascii.Error):
            raise ApiError("audio: expected audio in base64.", 400, "audio", "invalid_value") from None
        samples = self._audio.to_samples(data)
        if not samples.shape[0]:
            return
        stream = await self._open()
        for piece in stream.pieces(samples):
            update = await stream.push(piece)
            self._service.metrics.lag.observe(update.lag_seconds)
            await self._tell(update)

    async def _open(self) -> LiveStream:
        if self._stream is None:
            settings = self._settings
            request = replace(settings.request, endpointing=_endpointing_of(settings.turn_detection))
            self._stream = await asyncio.to_thread(self._service.streams.open, request)
        return self._stream

    async def _tell(self, update: StreamUpdate) -> None:
        self._heard_seconds = self._earlier_seconds + update.heard_seconds
        await self._send_delta(update.committed)
        for event in update.endpoints:
            milliseconds = round(1000 * (self._earlier_seconds + event.seconds))
            if event.kind == SPEECH_STARTED:
                await self._send(
                    {
                        "type": "input_audio_buffer.speech_started",
                        "audio_start_ms": milliseconds,
                        "item_id": self._current_item(),
                    }
                )
            else:
                await self._send(
                    {
                        "type": "input_audio_buffer.speech_stopped",
                        "audio_end_ms": milliseconds,
                        "item_id": self._current_item(),
                    }
                )
                await self._commit()

    async def _send_delta(self, text: str) -> None:
        if not self._item_text:
            text = text.lstrip()
        if not text:
            return
        self._item_text += text
        if self._is_vllm:
            await self._send({"type": "transcription.delta", "delta": text})
            return
        await self._send(
            {"type": f"{PREFIX}.delta", "item_id": self._current_item(), "content_index": 0, "delta": text}
        )

    async def _commit(self) -> None:
        """End the item: all that was heard becomes its text, even if that is empty."""
        if self._stream is not None:
            update = await self._stream.commit()
            await self._send_delta(update.committed)
        item = self._current_item()
        await self._send(
            {"type": "input_audio_buffer.committed", "item_id": item, "previous_item_id": self._previous_item}
        )
        content = {"type": "input_audio", "transcript": None}
        described = {
            "id": item, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
            "content": [content],
        }  # fmt: skip
        kind = "conversation.item.created" if self._is_beta else "conversation.item.added"
        await self._send({"type": kind, "previous_item_id": self._previous_item, "item": described})
        completed: dict[str, Any] = {
            "type": f"{PREFIX}.completed",
            "item_id": item,
            "content_index": 0,
            "transcript": self._item_text.strip(),
            "usage": self._usage(),
        }
        request = self._settings.request
        if request.language or len(request.languages) == 1:
            completed["languages"] = [{"code": request.language or request.languages[0]}]
        await self._send(completed)
        self._end_item(item)

    async def _finish_vllm(self) -> None:
        if self._stream is not None:
            await self._send_delta((await self._stream.finish()).committed)
            await self.close()
        await self._send({"type": "transcription.done", "text": self._item_text.strip(), "usage": self._usage()})
        self._earlier_seconds = self._heard_seconds
        self._end_item(None)

    def _usage(self) -> dict[str, Any]:
        return {"type": "duration", "seconds": math.ceil(self._heard_seconds - self._item_start)}

    def _end_item(self, item: str | None) -> None:
        self._service.metrics.audio_seconds.labels("live").inc(self._heard_seconds - self._item_start)
        self._item, self._previous_item, self._item_text = None, item, ""
        self._item_start = self._heard_seconds

    def _current_item(self) -> str:
        if self._item is None:
            self._item = _new_id("item")
        return self._item

    # Answers

    async def _send(self, event: dict[str, Any]) -> None:
        try:
            await self._socket.send_json({"event_id": _new_id("event"), **event})
        except RuntimeError as error:  # it is closed
            raise WebSocketDisconnect from error

    async def _send_error(self, error: ApiError, event_id: str | None) -> None:
        if self._is_vllm:
            await self._send({"type": "error", "error": error.message, "code": error.code})
            return
        await self._send({"type": "error", "error": {**error.body, "event_id": event_id}})

    async def _send_session(self, what: str, is_beta: bool = False) -> None:
        settings = self._settings
        request = settings.request
        transcription = {
            "model": request.model or self._service.models.names[0],
            "language": request.language,
            "languages": list(request.languages),
            "keywords": list(request.keywords),
            "delay": request.delay,
        }
        if is_beta or (self._is_beta and what == "created"):
            session = {
                "id": self._id,
                "object": "realtime.transcription_session",
                "input_audio_format": settings.format_name,
                "input_audio_transcription": transcription,
                "turn_detection": settings.turn_detection,
            }
            await self._send({"type": f"transcription_session.{what}", "session": session})
            return
        form = {"type": settings.format_name}
        if settings.encoding == "pcm16":
            form["rate"] = request.sampling_rate  # type: ignore[assignment]
        session = {
            "id": self._id,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": {
                "input": {
                    "format": form,
                    "transcription": transcription,
                    "noise_reduction": None,
                    "turn_detection": settings.turn_detection,
                }
            },
        }
        await self._send({"type": f"session.{what}", "session": session})


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"


def _has_voice_activity() -> bool:
    try:
        check_voice_activity(EndpointingOptions().voice_activity)
    except ImportError:
        return False
    return True


def _endpointing_of(turn_detection: Mapping[str, Any] | None) -> EndpointingOptions | None:
    if turn_detection is None:
        return None
    options = EndpointingOptions(
        kinds=("voice_activity",),
        threshold=turn_detection["threshold"],
        silence_ms=turn_detection["silence_duration_ms"],
        prefix_padding_ms=turn_detection["prefix_padding_ms"],
    )
    check_voice_activity(options.voice_activity)
    return options


def _set_format(settings: Settings, name: Any, rate: Any) -> Settings:
    if name not in FORMATS:
        raise ApiError(f"format: expected one of {', '.join(FORMATS)}.", 400, "format", "invalid_value")
    encoding, default_rate = FORMATS[name]
    rates = PCM_RATES if encoding == "pcm16" else (default_rate,)
    if rate is not None and rate not in rates:
        raise ApiError(f"format.rate: expected one of {rates}.", 400, "format.rate", "invalid_value")
    request = replace(settings.request, sampling_rate=rate or default_rate)
    return replace(settings, request=request, encoding=encoding, format_name=name)


def _take_object(given: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ApiError(f"{path}: expected an object.", 400, path, "invalid_value")
    return value


def _refuse_others(given: Mapping[str, Any], accepted: tuple[str, ...], path: str) -> None:
    for name in given:
        if name not in accepted:
            raise refused_field(f"{path}.{str(name)[:50]}", f"expected some of {', '.join(accepted)}.")


def _refuse_include(include: Any) -> None:
    if include:
        raise refused_field("include", "live streams give no logprobs.")
