"""Manifests as NeMo has them: a JSON object a line, with the path of a recording and what else is known of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from ..validation import is_number
from .downloads import is_url, local_path
from .folders import kind_of_path

MANIFEST_SUFFIXES = (".json", ".jsonl")
MANIFEST_FORM = "a manifest, one JSON object a line with 'audio_filepath'"
# Names of the recording in a line: NeMo's, and that of the metadata of `datasets`, whose paths begin at its folder.
AUDIO_KEY, METADATA_KEY = "audio_filepath", "file_name"
# Longer lines, and larger files of other JSON, are not read to their end to find out what they are.
MAX_LINE_CHARACTERS = 2**24
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


@dataclass(frozen=True)
class ManifestLine:
    """
    A line of a manifest.

    Args:
        where: Its name in messages: the manifest and the number of the line.
        row: Its number, from 0.
        source: Path or address of the recording; empty for a line with an error.
        start_seconds: Start of the part in the file.
        seconds: Length of the part; None: to the end of the file.
        entry: All that the line says.
        error: Reason why it cannot be used.
    """

    where: str
    row: int
    source: str = ""
    start_seconds: float = 0.0
    seconds: float | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)
    error: ValueError | None = None


def read_manifest(path: str | os.PathLike[str]) -> Iterator[ManifestLine]:
    """
    Read the lines of a manifest; one that is not accepted has its error and costs no other.

    Raises:
        ValueError: for a file that does not exist, is empty, or has no line with a JSON object.
    """
    path = os.fspath(path)
    entries = [(row, line, parse_json_line(line)) for row, line in read_lines(path)]
    if not any(isinstance(entry, dict) for _, _, entry in entries):
        raise ValueError(f"{path!r} is not a manifest; expected {MANIFEST_FORM}.")
    for row, line, entry in entries:
        yield read_manifest_line(line, entry, path, row)


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """
    Lines that are not empty, with their numbers. Bytes that are not UTF-8 are kept, since they may be a name's.

    Raises:
        ValueError: for a path where nothing is, and for one that is neither a file nor a folder.
    """
    if not os.path.exists(path):
        raise ValueError(f"{path!r} does not exist; expected {MANIFEST_FORM}.")
    if (kind := kind_of_path(path)) is not None:
        raise ValueError(f"{path!r} is {kind}; expected {MANIFEST_FORM}.")
    with open(path, "rb") as file:
        start = file.read(4)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")
    errors = "replace" if encoding == "utf-16" else "surrogateescape"
    with open(path, encoding=encoding, errors=errors) as text:
        row = 0
        while line := text.readline(MAX_LINE_CHARACTERS):
            rest = line
            while len(rest) == MAX_LINE_CHARACTERS and not rest.endswith("\n"):
                rest = text.readline(MAX_LINE_CHARACTERS)
            if line.strip():
                yield row, line
            row += 1


def parse_json_line(text: str) -> Any:
    """The JSON value of a text, or the error that it has."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a value of JSON")

    if len(text) >= MAX_LINE_CHARACTERS:
        return ValueError(f"it has more than {MAX_LINE_CHARACTERS} characters")
    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        return error


def parse_whole_json(path: str) -> dict[str, Any] | list[Any] | None:
    """The JSON object or list that a file is as a whole, over several lines; None if it is not one."""
    if os.path.getsize(path) > MAX_LINE_CHARACTERS:
        return None
    found = parse_json_line("".join(line for _, line in read_lines(path)))
    return found if isinstance(found, dict | list) else None


def name_line(manifest: str, row: int) -> str:
    """Name of a line in messages."""
    return f"{manifest!r}, line {row + 1}"


def path_of_url(url: str) -> str:
    """The path in an address."""
    return unquote(urlsplit(url).path)


def name_path(audio: str) -> PurePath:
    """The path by which a recording is called, of an address too."""
    return PurePosixPath(path_of_url(audio) if is_url(audio) else local_path(audio))


def read_manifest_line(line: str, entry: Any, manifest: str, row: int) -> ManifestLine:
    """
    Read the line of a manifest, with an error where it is not accepted.

    Args:
        line: The line.
        entry: Its JSON value, or the error that it has.
        manifest: Path of the manifest.
        row: Number of the line, from 0.
    """
    where = name_line(manifest, row)
    told = entry if isinstance(entry, dict) else {}
    try:
        return _read(line, entry, where, Path(manifest), row)
    except Exception as error:  # whatever a name does to the system's functions costs only this line
        return ManifestLine(where, row, entry=told, error=ValueError(_with_name(str(error), where)))


def _with_name(message: str, where: str) -> str:
    return message if message.startswith(where) else f"{where}: {message}"


def _read(line: str, entry: Any, where: str, manifest: Path, row: int) -> ManifestLine:
    expected = "expected a JSON object with 'audio_filepath'"
    if isinstance(entry, Exception):
        raise ValueError(f"{where} is not JSON; {expected}. {entry}")
    key = METADATA_KEY if isinstance(entry, dict) and AUDIO_KEY not in entry else AUDIO_KEY
    audio = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(audio, str) or not audio:
        raise ValueError(f"{where}: found {line.strip()[:80]!r}; {expected} or 'file_name'.")
    times: dict[str, float | None] = {}
    for name in ("offset", "duration"):
        value = entry.get(name)
        if value is not None and not is_number(value):
            raise ValueError(f"{where}: {name}={repr(value)[:40]} is not supported; expected seconds.")
        times[name] = None if value is None else float(value)
    source = local_path(audio)
    is_remote = is_url(audio)
    if not name_path(audio).name:
        raise ValueError(f"{where}: {key}={audio!r} names no file; expected the path of an audio file.")
    if not (is_remote or os.path.isabs(source)):
        # The path as written if that file exists, else from the manifest's folder (NeMo 3.0.0, `get_full_path`).
        is_found = key == AUDIO_KEY and os.path.isfile(source)
        source = source if is_found else str(manifest.parent / source)
    if (kind := None if is_remote else kind_of_path(source)) is not None:
        raise ValueError(f"{where}: {audio!r} is {kind}; expected an audio file.")
    return ManifestLine(where, row, source, times["offset"] or 0.0, times["duration"], {AUDIO_KEY: audio, **entry})
