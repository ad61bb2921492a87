"""
Record of what the outputs of `fastconformer transcribe` were made from: a file of lines in the output folder.

A line is added before an output takes its place, so that each output that a run has made has its line. Lines are added
under a lock of the system and never changed; of several for one output that one counts whose digest is the output's.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..temporary_files import lock_file
from .transcribe_inputs import AudioInput

RECORD_NAME = ".fastconformer.jsonl"
# Another run holds the lock for the time of one write. What is added after that is added whole without it too.
MAX_LOCK_SECONDS = 5.0
LOCK_PAUSE_SECONDS = 0.002
DIGEST_BYTES = 16
BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """
    What an output was made from.

    Args:
        source: Absolute path of a file, an address, or the name of a stream.
        size: Bytes of the file; None for addresses, and for a file that does not exist.
        modified: Time of its last change, in nanoseconds; None where it says nothing.
        digest: Digest of the bytes of a stream.
        offset: Start of the part, in seconds.
        duration: Its length in seconds; None: to the end.
        channel: Channel that was transcribed.
    """

    source: str
    size: int | None = None
    modified: int | None = None
    digest: str | None = None
    offset: float = 0.0
    duration: float | None = None
    channel: int | str = "mix"

    def is_same_place(self, other: Source) -> bool:
        """Tell whether another one is the same part of the same file, whatever the file holds."""
        return self._place() == other._place()

    def _place(self) -> tuple[Any, ...]:
        return self.source, self.offset, self.duration, self.channel

    def describe(self) -> str:
        """Name for messages, with what sets it apart from the whole file."""
        extra = [f"offset {self.offset:g} s"] if self.offset else []
        extra += [] if self.duration is None else [f"duration {self.duration:g} s"]
        extra += [] if self.channel == "mix" else [f"channel {self.channel}"]
        return f"{self.source!r} ({', '.join(extra)})" if extra else repr(self.source)


# Name of an output below the folder; for a line of a manifest also the line and the channel.
OutputKey = tuple[str, int | None, int | str | None]


@dataclass(frozen=True)
class SourceLine:
    """
    A line of the record.

    Args:
        key: The output.
        made: Digest of its bytes.
        source: What it was made from.
    """

    key: OutputKey
    made: str
    source: Source

    def format(self) -> str:
        output, row, _ = self.key
        return json.dumps({"output": output, "row": row, "made": self.made, **asdict(self.source)}) + "\n"

    @staticmethod
    def parse(text: bytes) -> SourceLine | None:
        """Read a line; None for half a line, or one that was spoilt."""
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            found = json.loads(text)
            source = Source(**{field.name: found[field.name] for field in fields(Source)})
            output, row, made = found["output"], found["row"], found["made"]
            kinds = ((output, str), (made, str), (source.source, str), (source.channel, int | str))
            if all(isinstance(value, kind) for value, kind in kinds) and (row is None or isinstance(row, int)):
                return SourceLine((output, row, None if row is None else source.channel), made, source)
        return None


def make_digest(content: bytes) -> str:
    """Digest by which outputs and streams are told apart."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _digest_of_file(path: str) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def find_source(item: AudioInput) -> Source:
    """The source that an input is made from, as it is now."""
    clip = item.clip
    part: dict[str, Any] = {"offset": clip.start_seconds, "duration": clip.seconds, "channel": clip.channel}
    if item.recorded_at is not None:
        return Source(f"{item.file} at {item.recorded_at}", **part)
    if item.is_remote:
        return Source(item.file, **part)
    try:
        found = os.stat(clip.source)
        if item.is_stream:
            return Source(item.file, found.st_size, digest=_digest_of_file(clip.source), **part)
    except (OSError, ValueError):  # told when it is read
        return Source(os.path.abspath(clip.source), **part)
    return Source(os.path.abspath(clip.source), found.st_size, found.st_mtime_ns, **part)


class SourceRecord:
    """
    The record of a folder, as it was when it was read, and what this run adds.

    Args:
        folder: The output folder, which need not exist.

    Raises:
        ValueError: when it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD_NAME
        self._lines: dict[OutputKey, list[SourceLine]] = {}
        try:
            if self.path.exists() and not self.path.is_file():
                raise OSError("it is not a file")
            with self.path.open("rb") as file:
                for text in file:
                    if (line := SourceLine.parse(text)) is not None:
                        self._lines.setdefault(line.key, []).append(line)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise ValueError(
                f"{str(self.path)!r} cannot be read: {error.strerror or error}; expected the record of the outputs "
                "there, or another --output_dir."
            ) from error

    def list_outputs(self) -> set[str]:
        """Absolute paths of all outputs that were made in the folder."""
        return {os.path.abspath(self.path.parent / name) for name, _, _ in self._lines}

    def find(self, key: OutputKey, content: bytes) -> tuple[Source | None, bool]:
        """
        Find what an output was made from.

        Args:
            key: The output.
            content: Its bytes.

        Returns:
            The source, None without a line; and whether its line is certain, that is: of an output with these bytes.
        """
        lines = self._lines.get(key, [])
        if not lines:
            return None, False
        made = make_digest(content)
        certain = next((line for line in reversed(lines) if line.made == made), None)
        return (lines[-1].source, False) if certain is None else (certain.source, True)

    def add(self, lines: Sequence[SourceLine]) -> None:
        """
        Add lines to the file.

        Raises:
            OSError: when it cannot be written.
        """
        new = [line for line in lines if self._lines.get(line.key, [])[-1:] != [line]]
        if not new:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            end = time.monotonic() + MAX_LOCK_SECONDS
            while lock_file(file.fileno()) is False and time.monotonic() < end:
                time.sleep(LOCK_PAUSE_SECONDS)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            # What a full disk has left may end in the middle of a line.
            mark = b"\n" if file.read(1) not in (b"", b"\n") else b""
            file.write(mark + "".join(line.format() for line in new).encode())
        for line in new:
            self._lines.setdefault(line.key, []).append(line)
