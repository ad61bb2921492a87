"""The application: routes, keys, errors and the life of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers.utils import logging

from ..version import __version__
from .errors import ApiError, error_of
from .files_api import FilesApi
from .listen import ListenApi
from .metrics import CONTENT_TYPE
from .openapi import describe_api, write_docs
from .page import POLICY, read_page
from .realtime import RealtimeApi
from .service import Service
from .stream_api import StreamApi
from .uploads import BodyLimits

logger = logging.get_logger(__name__)

UNLOAD_CHECK_SECONDS = 5.0
# Paths without a key: a check that the server lives, and what holds no data.
OPEN_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json"})
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


def build_app(service: Service) -> Starlette:
    """
    The application of a service, which ends with it.

    Args:
        service: Models, queues and numbers.
    """
    options = service.options
    files = FilesApi(service)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__, "loaded_models": service.models.loaded})

    async def list_models(request: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [_describe_model(service, name) for name in service.models.names]}
        )

    async def show_model(request: Request) -> Response:
        return JSONResponse(_describe_model(service, service.models.require_name(request.path_params["name"])))

    async def show_metrics(request: Request) -> Response:
        return Response(service.metrics.write(), media_type=CONTENT_TYPE)

    async def show_openapi(request: Request) -> Response:
        return JSONResponse(describe_api())

    async def show_docs(request: Request) -> Response:
        return HTMLResponse(write_docs(describe_api()))

    async def show_page(request: Request) -> Response:
        return HTMLResponse(read_page(), headers={"Content-Security-Policy": POLICY})

    routes: list[BaseRoute] = [
        Route("/health", health),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:path}", show_model),
        Route("/metrics", show_metrics),
        Route("/openapi.json", show_openapi),
        Route("/docs", show_docs),
        WebSocketRoute("/v1/realtime", RealtimeApi(service).serve),
        WebSocketRoute("/v1/listen", ListenApi(service).serve),
        WebSocketRoute("/stream", StreamApi(service).serve),
        Route("/", show_page),
        Route("/v1/audio/transcriptions", files.transcribe, methods=["POST"]),
        Route("/v1/audio/translations", files.translate, methods=["POST"]),
    ]
    middleware = [Middleware(_Outermost, service=service)]
    if options.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=options.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
            )
        )
    middleware += [
        Middleware(_Keys, service=service),
        Middleware(BodyLimits, max_bytes=options.max_upload_bytes, seconds=options.upload_seconds),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(preload, service)
        unloading = asyncio.create_task(_unload_idle(service))
        try:
            yield
        finally:
            unloading.cancel()
            await run_in_threadpool(service.close)

    handlers = {
        ApiError: _show_error,
        HTTPException: _show_http_error,
        ClientDisconnect: _show_nothing,
        Exception: _show_fault,
    }
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]


def preload(service: Service) -> None:
    """Load the first model, and that of the speakers: one which cannot be loaded ends the server at once."""
    if service.speakers is not None:
        service.speakers.load()
    with service.models.using(service.models.names[0]):
        pass


async def _unload_idle(service: Service) -> None:
    while True:
        await asyncio.sleep(UNLOAD_CHECK_SECONDS)
        await run_in_threadpool(service.models.unload_idle)


def _describe_model(service: Service, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": service.models.started_seconds,
        "owned_by": "transformers-fastconformer",
        "loaded": name in service.models.loaded,
        "diarizes": service.speakers is not None,
    }


async def _show_error(request: Request, error: Exception) -> Response:
    return error_of(error).to_response()


async def _show_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {404: f"{request.url.path} is not served here.", 405: f"{request.method} is not for {request.url.path}."}
    return ApiError(message.get(error.status_code, error.detail), error.status_code).to_response()


async def _show_nothing(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _show_fault(request: Request, error: Exception) -> Response:
    """A fault: the log, which Starlette's own handler writes, has the trace; the client does not."""
    return error_of(error).to_response()


class _Keys:
    """Asks for the key on all paths but those of `OPEN_PATHS`; live streams ask for theirs themselves."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
            try:
                self._service.require_key(HTTPConnection(scope).headers)
            except ApiError as error:
                await error.to_response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Outermost:
    """Counts answers, and adds headers that keep browsers from doing more than is asked of them."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *SECURITY_HEADERS]
                route = scope.get("route")
                # Unknown paths are counted together: a client could else fill the memory with names.
                path = getattr(route, "path", "other")
                self._service.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, sending)
