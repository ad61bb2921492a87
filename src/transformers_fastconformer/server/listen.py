"""`/v1/listen`: live text as Deepgram's clients ask for it."""

from __future__ import annotations

import asyncio
import datetime
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..audio.voice_activity import check_voice_activity
from ..streaming.endpointing import SPEECH_STARTED, EndpointingOptions
from ..streaming.text import StreamWord
from ..streaming.updates import StreamUpdate
from .errors import ApiError, error_of, refused_field
from .fields import check_keywords
from .live import LiveRequest, LiveStream
from .live_socket import AudioBytes, close, may_open, parse_message, receive, take_rate
from .service import Service

ENCODINGS = {"linear16": "pcm16", "mulaw": "ulaw", "alaw": "alaw"}
# Honoured by having nothing to do: text is written as the model writes it, nothing is kept, nothing waits.
WITHOUT_EFFECT = frozenset({"punctuate", "no_delay", "mip_opt_out", "version"})
# Off is what they are here.
OFF = frozenset(
    {"diarize", "multichannel", "smart_format", "numerals", "profanity_filter", "dictation", "detect_entities"}
)
OFF_VALUES = ("false", "0", "")
READ = ("model", "encoding", "sample_rate", "channels", "interim_results", "endpointing", "utterance_end_ms",
        "vad_events", "language", "keyterm", "keywords", "filler_words")  # fmt: skip
DEFAULT_ENDPOINTING_MS = 300.0
# An utterance without a pause is given in pieces of that length.
MAX_PIECE_SECONDS = 10.0


@dataclass(frozen=True)
class ListenRequest:
    """
    The query of a connection.

    Args:
        stream: The stream to open.
        encoding: Of its audio.
        has_interim: Text that may change is sent too.
        has_vad_events: Starts of speech are sent.
        utterance_end_seconds: Time without a word after which `UtteranceEnd` is sent; None: never.
    """

    stream: LiveRequest
    encoding: str
    has_interim: bool = False
    has_vad_events: bool = False
    utterance_end_seconds: float | None = None

    @classmethod
    def parse(cls, query: QueryParams) -> ListenRequest:
        """
        Read a query.

        Raises:
            ApiError: for a parameter that is not known or not honoured, and for a value that is not accepted.
            ImportError: `vad_events` needs the extra `vad`.
        """
        for name, value in query.multi_items():
            if name in OFF and value.lower() not in OFF_VALUES:
                raise refused_field(name, "this server does not do it; expected false.")
            if name not in READ and name not in OFF and name not in WITHOUT_EFFECT:
                raise refused_field(name[:50], f"expected some of {', '.join(READ)}.")
        if query.get("filler_words", "true").lower() in OFF_VALUES:
            raise refused_field("filler_words", "all that is said is written; expected true.")
        encoding = query.get("encoding", "")
        if encoding not in ENCODINGS:
            raise ApiError(f"encoding: expected one of {', '.join(ENCODINGS)}.", 400, "encoding", "invalid_value")
        if query.get("channels", "1") != "1":
            raise refused_field("channels", "expected 1.")
        rate = query.get("sample_rate", "")
        has_vad = _flag(query, "vad_events")
        kinds: list[str] = []
        pause_ms = DEFAULT_ENDPOINTING_MS
        if query.get("endpointing", "true").lower() != "false":
            kinds.append("blanks")
            if query.get("endpointing", "true").lower() != "true":
                pause_ms = _number(query, "endpointing")
        if has_vad:
            kinds.append("voice_activity")
        endpointing = EndpointingOptions(kinds=tuple(kinds), blank_ms=pause_ms) if kinds else None
        if has_vad and endpointing is not None:
            check_voice_activity(endpointing.voice_activity)
        phrases = [*query.getlist("keyterm"), *query.getlist("keywords")]
        if any(":" in phrase for phrase in query.getlist("keywords")):
            raise refused_field("keywords", "a strength of each word is not supported; expected the words only.")
        stream = LiveRequest(
            model=query.get("model"),
            sampling_rate=take_rate(int(rate) if rate.isdigit() else None, "sample_rate"),
            language=query.get("language"),
            keywords=check_keywords(tuple(dict.fromkeys(filter(None, map(str.strip, phrases))))),
            endpointing=endpointing,
            has_confidence=True,
        )
        ends = _number(query, "utterance_end_ms") / 1000 if "utterance_end_ms" in query else None
        return cls(stream, ENCODINGS[encoding], _flag(query, "interim_results"), has_vad, ends)


def _flag(query: QueryParams, name: str) -> bool:
    value = query.get(name, "false").lower()
    if value not in ("true", "false"):
        raise ApiError(f"{name}: expected true or false.", 400, name, "invalid_value")
    return value == "true"


def _number(query: QueryParams, name: str) -> float:
    value = query[name]
    if not value.isdigit() or not 0 < int(value) <= 60_000:
        raise ApiError(f"{name}: expected milliseconds from 1 to 60000.", 400, name, "invalid_value")
    return float(value)


class ListenApi:
    """
    The endpoint.

    Args:
        service: Models and live streams.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def serve(self, socket: WebSocket) -> None:
        """Serve a connection to its end; what cannot be honoured is refused before it is accepted."""
        if not await may_open(socket, self._service):
            return
        stream = None
        try:
            request = ListenRequest.parse(socket.query_params)
            stream = await asyncio.to_thread(self._service.streams.open, request.stream)
        except (ApiError, ValueError, ImportError) as error:
            await socket.send_denial_response(error_of(error).to_response())
            return
        try:
            with suppress(WebSocketDisconnect):
                await socket.accept()
                await ListenSession(self._service, socket, stream, request).run()
        except (ApiError, ValueError) as error:
            with suppress(RuntimeError, WebSocketDisconnect):
                await close(socket, error_of(error))
        finally:
            await stream.close()


class ListenSession:
    """
    A connection with its stream.

    Args:
        service: Numbers and limits.
        socket: The connection, accepted.
        stream: The stream.
        request: What was asked for.
    """

    def __init__(self, service: Service, socket: WebSocket, stream: LiveStream, request: ListenRequest) -> None:
        self._service = service
        self._socket = socket
        self._stream = stream
        self._request = request
        self._audio = AudioBytes(request.encoding)
        self._id = secrets.token_hex(16)
        self._words: list[StreamWord] = []  # since the last final result
        self._text = ""
        self._start = self._heard = 0.0
        self._last_word_end: float | None = None

    async def run(self) -> None:
        """Answer messages until the client leaves or closes the stream."""
        while True:
            message = await receive(self._socket, self._service.options.idle_seconds)
            if isinstance(message, bytes):
                for piece in self._stream.pieces(self._audio.to_samples(message)):
                    update = await self._stream.push(piece)
                    self._service.metrics.lag.observe(update.lag_seconds)
                    await self._tell(update)
                continue
            kind = parse_message(message)["type"]
            if kind == "Finalize":
                await self._send_final(await self._stream.commit(), from_finalize=True)
            elif kind == "CloseStream":
                update = await self._stream.finish()
                await self._send_final(update)
                self._service.metrics.audio_seconds.labels("live").inc(update.heard_seconds)
                await self._send_metadata()
                await self._socket.close()
                return
            elif kind != "KeepAlive":
                raise ApiError(f"type={kind[:50]!r} is not supported; expected KeepAlive, Finalize or CloseStream.")

    async def _tell(self, update: StreamUpdate) -> None:
        self._add(update)
        for event in update.endpoints:
            if event.kind == SPEECH_STARTED:
                if self._request.has_vad_events:
                    await self._send({"type": "SpeechStarted", "channel": [0], "timestamp": round(event.seconds, 3)})
            elif event.cause == "blanks":
                await self._send_final(await self._stream.commit(), speech_final=True)
        if self._heard - self._start > MAX_PIECE_SECONDS and self._words:
            await self._send_result(self._words, True)
        elif self._request.has_interim and update.committed + update.tentative:
            await self._send_result([*self._words, *update.tentative_words], False)
        limit, last = self._request.utterance_end_seconds, self._last_word_end
        if limit is not None and last is not None and update.decoded_seconds - last >= limit:
            self._last_word_end = None
            await self._send({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": round(last, 3)})

    def _add(self, update: StreamUpdate) -> None:
        self._heard = update.heard_seconds
        self._words += update.words
        if update.words:
            self._last_word_end = update.words[-1].end

    async def _send_final(self, update: StreamUpdate, speech_final: bool = False, from_finalize: bool = False) -> None:
        self._add(update)
        await self._send_result(self._words, True, speech_final, from_finalize)

    async def _send_result(
        self, words: Sequence[StreamWord], is_final: bool, speech_final: bool = False, from_finalize: bool = False
    ) -> None:
        confidences = [word.confidence or 0.0 for word in words]
        alternative = {
            "transcript": " ".join(word.text for word in words),
            "confidence": round(sum(confidences) / len(confidences), 4) if confidences else 0.0,
            "words": [
                {
                    "word": word.text.strip(".,?!;:").lower() or word.text,
                    "punctuated_word": word.text,
                    "start": round(word.start, 3),
                    "end": round(word.end, 3),
                    "confidence": round(word.confidence or 0.0, 4),
                }
                for word in words
            ],
        }
        await self._send(
            {
                "type": "Results",
                "channel_index": [0, 1],
                "start": round(self._start, 3),
                "duration": round(self._heard - self._start, 3),
                "is_final": is_final,
                "speech_final": speech_final,
                "from_finalize": from_finalize,
                "channel": {"alternatives": [alternative]},
                "metadata": {
                    "request_id": self._id,
                    "model_uuid": self._id,
                    "model_info": {"name": self._stream.request.model, "version": "", "arch": "fastconformer"},
                },
            }
        )
        if is_final:
            self._words, self._start = [], self._heard

    async def _send_metadata(self) -> None:
        await self._send(
            {
                "type": "Metadata",
                "transaction_key": "deprecated",
                "request_id": self._id,
                "sha256": "",
                "created": datetime.datetime.now(datetime.timezone.utc).isoformat(),
                "duration": round(self._heard, 3),
                "channels": 1,
            }
        )

    async def _send(self, event: dict[str, Any]) -> None:
        try:
            await self._socket.send_json(event)
        except RuntimeError as error:  # it is closed
            raise WebSocketDisconnect from error
