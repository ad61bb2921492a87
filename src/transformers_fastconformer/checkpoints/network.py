"""Errors of the network, and of rights to what is on the Hub, told from all others."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

HTTP_NO_ACCESS = (401, 403)
HTTP_SERVER_ERROR = 500


def is_unreachable(error: BaseException) -> bool:
    """Tell whether an error comes from a missing network or a missing right to a repository."""
    return any(_is_of_the_network(cause) for cause in causes_of(error))


def is_without_network(error: BaseException) -> bool:
    """Tell whether an error comes from a missing network, and not from an answer of the Hub."""
    return any(_is_of_a_connection(cause) for cause in causes_of(error))


def _is_of_a_connection(error: BaseException) -> bool:
    return isinstance(error, ConnectionError | TimeoutError | socket.gaierror) and not isinstance(
        error, BrokenPipeError
    )


def _is_of_the_network(error: BaseException) -> bool:
    if isinstance(error, GatedRepoError | LocalEntryNotFoundError):
        return True
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        # The Hub answers 401 for a repository that does not exist, too.
        is_unknown = isinstance(error, RepositoryNotFoundError)
        return (status in HTTP_NO_ACCESS and not is_unknown) or status >= HTTP_SERVER_ERROR
    return _is_of_a_connection(error)


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors that led to it, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
