"""Errors in OpenAI's form, which their clients turn into exceptions of their own."""

from __future__ import annotations

import math
import re
from typing import Any

from starlette.responses import JSONResponse, Response

INVALID_REQUEST, SERVER_ERROR = "invalid_request_error", "server_error"
# The house's names of options, and what clients call them.
PARAMETERS = {
    "boosting": "keywords",
    "phrases": "keywords",
    "context": "prompt",
    "voice_activity": "chunking_strategy",
}
PARAMETER_PATTERN = re.compile(r"([A-Za-z_]\w*)=")


class ApiError(Exception):
    """
    A request that is refused.

    Args:
        message: For the client: what was found and what is accepted.
        status: Status of HTTP.
        parameter: Field of the request that it is about; None: none.
        code: A word that programs may compare; None: none.
        kind: OpenAI's `type` of the error.
        retry_seconds: Seconds after which the client may try again; None: it should not.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        parameter: str | None = None,
        code: str | None = None,
        kind: str = INVALID_REQUEST,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.parameter = message, status, parameter
        self.code, self.kind, self.retry_seconds = code, kind, retry_seconds

    @property
    def body(self) -> dict[str, Any]:
        """The `error` object."""
        return {"message": self.message, "type": self.kind, "param": self.parameter, "code": self.code}

    def to_response(self) -> Response:
        headers = {} if self.retry_seconds is None else {"Retry-After": str(max(math.ceil(self.retry_seconds), 1))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": self.body}, self.status, headers)


def refused_field(name: str, message: str) -> ApiError:
    """The error for a field that is not honoured."""
    return ApiError(f"{name}: {message}", parameter=name, code="unsupported_parameter")


def error_of(error: Exception) -> ApiError:
    """
    The error that a client sees.

    What is wrong with a request or its audio has the message of the package, which holds no place in the program;
    faults of the server have none.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValueError):
        found = PARAMETER_PATTERN.match(str(error))
        name = None if found is None else PARAMETERS.get(found[1], found[1])
        return ApiError(str(error), parameter=name, code="invalid_value")
    if isinstance(error, ImportError):
        return ApiError(str(error), 501, code="not_installed", kind=SERVER_ERROR)
    if isinstance(error, MemoryError):
        return ApiError("The memory of the server does not suffice for this.", 507, code="memory", kind=SERVER_ERROR)
    return ApiError("The server has failed; its log says why.", 500, code="internal_error", kind=SERVER_ERROR)
