"""`/v1/audio/transcriptions` and `/v1/audio/translations`: a file in a form, a transcript out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..inference.file import check_options
from ..inference.transcript import Transcript
from .errors import ApiError, error_of
from .fields import LIST_FIELDS, MAX_KEYWORDS, FileRequest
from .file_queue import FileJob
from .models import LoadedModel
from .responses import MEDIA_TYPES, list_events, sse, write_body
from .service import Service
from .uploads import read_upload

MAX_FIELDS = MAX_KEYWORDS + 8 * len(LIST_FIELDS)
MAX_FIELD_BYTES = 64 * 1024
# How often a client that waits is looked after.
POLL_SECONDS = 0.25
# A comment in the stream of events so often, with the seconds that are done: no proxy takes it for dead.
PROGRESS_SECONDS = 5.0
CLIENT_LEFT = 499
# Files whose features are computed at a time: more would take the device's share of the cores.
NUM_PREPARING = 1


@contextmanager
def _refusing() -> Iterator[None]:
    """Errors of options and audio are the client's; all others are faults of the server, which its log has."""
    try:
        yield
    except (ValueError, ImportError, MemoryError) as error:
        raise error_of(error) from error


class FilesApi:
    """
    The endpoints for files.

    Args:
        service: Models and queue.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._preparing = asyncio.Semaphore(NUM_PREPARING)

    async def transcribe(self, request: Request) -> Response:
        """`POST /v1/audio/transcriptions`."""
        return await self._answer(request, is_translation=False)

    async def translate(self, request: Request) -> Response:
        """`POST /v1/audio/translations`."""
        return await self._answer(request, is_translation=True)

    async def _answer(self, request: Request, is_translation: bool) -> Response:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError("The body is not a form; expected multipart/form-data with a file.", 415)
        self._service.files.require_room()  # before the body is read
        with ExitStack() as arriving:
            arriving.enter_context(self._service.files.arriving())
            try:
                form = await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
            except ClientDisconnect:
                return Response(status_code=CLIENT_LEFT)
            except HTTPException as error:
                raise ApiError(f"The form cannot be read: {error.detail}") from error
            return await self._answer_form(request, form, is_translation, arriving)

    async def _answer_form(
        self, request: Request, form: FormData, is_translation: bool, arriving: ExitStack
    ) -> Response:
        is_handed_on = False
        try:
            uploads = [value for key, value in form.multi_items() if key == "file" and isinstance(value, UploadFile)]
            if len(uploads) != 1:
                raise ApiError("file: expected one audio file in the form.", parameter="file", code="missing_file")
            fields = [(key, value) for key, value in form.multi_items() if key != "file" and isinstance(value, str)]
            parsed = FileRequest.parse(fields, is_translation)
            name = self._service.models.require_name(parsed.model)
            loaded = await run_in_threadpool(self._service.models.acquire, name)
            try:
                job = await run_in_threadpool(self._prepare, parsed, loaded, uploads[0])
                async with self._preparing:
                    await run_in_threadpool(self._compute_features, job)
                self._service.files.submit(job)
                arriving.close()
                if parsed.is_stream:
                    is_handed_on = True
                    return _Events(self._stream(parsed, loaded, job), partial(self._end, job, name, form))
                transcript = await self._wait(request, job)
                if transcript is None:
                    return Response(status_code=CLIENT_LEFT)
                body = await run_in_threadpool(write_body, transcript, parsed, loaded.processor)
                return Response(body, media_type=MEDIA_TYPES[parsed.response_format])
            finally:
                if not is_handed_on:
                    self._service.models.release(name)
        finally:
            if not is_handed_on:
                await form.close()

    def _prepare(self, parsed: FileRequest, loaded: LoadedModel, upload: UploadFile) -> FileJob:
        """The job of a request whose options and audio are right."""
        with _refusing():
            options = parsed.to_options(self._service.options, loaded.is_multitask)
            check_options(loaded.model, loaded.processor, options)
        sampling_rate = loaded.processor.feature_extractor.sampling_rate
        audio = read_upload(upload.file, sampling_rate, self._service.options.max_audio_seconds)
        speakers = self._service.speakers if parsed.has_speakers else None
        return FileJob(loaded.model, loaded.processor, audio.clip, audio.seconds, options, speakers)

    @staticmethod
    def _compute_features(job: FileJob) -> None:
        with _refusing():
            job.prepare()

    async def _wait(self, request: Request, job: FileJob) -> Transcript | None:
        """The transcript; None where the client has left, whose file is then dropped."""
        future = asyncio.wrap_future(job.future)
        try:
            while not (await asyncio.wait([future], timeout=POLL_SECONDS))[0]:
                if await request.is_disconnected():
                    return None
            with _refusing():
                return future.result()
        finally:
            job.drop()

    async def _stream(self, parsed: FileRequest, loaded: LoadedModel, job: FileJob) -> AsyncIterator[str]:
        future = asyncio.wrap_future(job.future)
        try:
            while not (await asyncio.wait([future], timeout=PROGRESS_SECONDS))[0]:
                yield f": {job.done_seconds:.1f} of {job.seconds:.1f} s\n\n"
            for event in list_events(future.result(), parsed, loaded.processor):
                yield sse(event)
        except Exception as error:  # the status is sent already
            yield sse({"type": "error", "error": error_of(error).body})

    async def _end(self, job: FileJob, name: str, form: FormData) -> None:
        """End a request whose answer was a stream of events."""
        job.drop()
        self._service.models.release(name)
        await form.close()


class _Events(StreamingResponse):
    """
    Events of a request, and what is to be done after it, also where the client has left before the first event.

    Args:
        events: The events.
        end: Called once, whatever happens.
    """

    def __init__(self, events: AsyncIterator[str], end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._end()
