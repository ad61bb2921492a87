"""Audio by its address: `http(s)` and `file`, whatever the case of these letters."""

from __future__ import annotations

import http.client
import io
import os
import string
import urllib.request
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

URL_SCHEMES = ("http://", "https://")
FILE_SCHEME = "file://"
URL_TIMEOUT_SECONDS = 60.0
COPY_BYTES = 1 << 18
# What stays as it is in a URL: all but spaces, control characters and what is not ASCII.
URL_CHARACTERS = string.punctuation


def is_url(audio: Any) -> bool:
    """True for the `http(s)` address of something that must be downloaded."""
    return isinstance(audio, str) and audio[:8].lower().startswith(URL_SCHEMES)


def local_path(audio: Any) -> Any:
    """
    The path that a `file://` address names; anything else as it is.

    Raises:
        ValueError: for an address that names another machine.
    """
    if not isinstance(audio, str) or audio[: len(FILE_SCHEME)].lower() != FILE_SCHEME:
        return audio
    host = urlsplit(audio).netloc
    if host.lower() not in ("", "localhost"):
        raise ValueError(f"{audio!r} names a file of the machine {host!r}; expected file:///PATH, a file of this one.")
    rest = audio[len(FILE_SCHEME) + len(host) :]
    return urllib.request.url2pathname(rest)


def download_audio(url: str) -> bytes:
    """
    The bytes that an `http(s)` URL names.

    Raises:
        ValueError: when the server answers with an error, does not answer, or sends less than it announces.
    """
    target = io.BytesIO()
    download(url, target)
    return target.getvalue()


def download(url: str, target: BinaryIO) -> None:
    """
    Write what an `http(s)` URL names to a file.

    Raises:
        ValueError: when the server answers with an error, does not answer, or sends less than it announces.
        OSError: when the file cannot be written, with the URL.
    """
    num_bytes = 0
    announced: str | None = None
    failures = (OSError, http.client.HTTPException, ValueError)
    try:
        request = urllib.request.Request(_in_ascii(url), headers={"Accept-Encoding": "identity"})
        response = urllib.request.urlopen(request, timeout=URL_TIMEOUT_SECONDS)
    except failures as error:
        raise _failed(url, error) from error
    with response:
        announced = response.headers.get("Content-Length")
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise ValueError(f"{url} is sent with Content-Encoding: {coding}; expected the file as it is (identity).")
        while True:
            try:
                content = response.read(COPY_BYTES)
            except failures as error:
                raise _failed(url, error) from error
            if not content:
                break
            write_named(target, content, repr(url))
            num_bytes += len(content)
    if announced is not None and announced.strip().isdecimal() and num_bytes < int(announced):
        raise ValueError(
            f"{url} was not downloaded whole: the server announces {announced.strip()} bytes, {num_bytes} came."
        )


def _in_ascii(url: str) -> str:
    """The URL as it is sent: names of machines by IDNA, all else that is not ASCII in percent signs."""
    host = urlsplit(url).netloc
    if not host.isascii():
        url = url.replace(host, host.encode("idna").decode("ascii"), 1)
    return quote(url, safe=URL_CHARACTERS)


def copy_stream(source: BinaryIO, target: BinaryIO, name: str) -> None:
    """
    Write all of an open file or pipe to a file.

    Raises:
        OSError: when it cannot be read or written, with the name.
    """
    while True:
        try:
            content = source.read(COPY_BYTES)
        except OSError as error:
            raise named(error, f"{name} cannot be read") from error
        if not content:
            return
        write_named(target, content, name)


def write_named(target: BinaryIO, content: bytes, name: str) -> None:
    """Write a piece of a copy; an error says of what."""
    try:
        target.write(content)
    except OSError as error:
        raise named(error, f"{name} cannot be copied to a temporary file") from error


def named(error: OSError, what: str) -> OSError:
    """The error of the system, of the same kind, with what was to be done."""
    if error.errno is None:
        return OSError(f"{what}: {error}")
    return OSError(error.errno, f"{what}: {error.strerror or os.strerror(error.errno)}")


def _failed(url: str, error: Exception) -> ValueError:
    return ValueError(f"{url} cannot be downloaded; expected the address of an audio file. {error}")
