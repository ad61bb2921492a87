"""A stretch of an open file as a file of its own, for decoders that expect one stream and nothing else in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import BinaryIO

# A file of unknown length says that it is so many times longer than it is: whatever a decoder guesses from that is
# beyond the end, so that the end of the data ends the reading.
UNKNOWN_LENGTH_FACTOR = 1000
BLOCK_BYTES = 1 << 20
# So many bytes may be missing at the end of a last frame, whose writer counted bytes of padding and left them out.
MAX_MISSING_TAIL_BYTES = 4
# Decoders look for tags so near the end.
TAG_BYTES = 128


def read_at(file: BinaryIO, position: int, num_bytes: int) -> bytes:
    """
    Bytes of a file from a position on, fewer where it ends.

    Raises:
        ValueError: for a position that no file has: the sum of sizes that are not true.
    """
    try:
        file.seek(position)
    except (OSError, OverflowError) as error:
        raise ValueError(f"its sizes lead to byte {position}, which no file has") from error
    parts = []
    while num_bytes > 0 and (part := file.read(num_bytes)):
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def find_bytes(file: BinaryIO, wanted: bytes, start: int, stop: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Position of the first place between `start` and `stop` where these bytes stand; -1 for none."""
    position = start
    while position < stop:
        block = read_at(file, position, min(block_bytes + len(wanted) - 1, stop - position))
        found = block.find(wanted)
        if found >= 0:
            return position + found
        if len(block) < block_bytes:
            return -1
        position += block_bytes
    return -1


class Window:
    """
    Bytes `start` to `stop - 1` of an open file, which others may read meanwhile only between two calls.

    Args:
        file: An open binary file that can be wound back.
        start: First byte.
        stop: The byte after the last.
        patches: Bytes that stand in place of those of the file, by their position in the file.
        has_unknown_length: Its length is not told to those who ask for it, see `UNKNOWN_LENGTH_FACTOR`.
    """

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        stop: int,
        patches: Mapping[int, bytes] | None = None,
        has_unknown_length: bool = False,
    ) -> None:
        self._file = file
        self._start = start
        self._num_bytes = stop - start
        self._told_bytes = self._num_bytes * UNKNOWN_LENGTH_FACTOR if has_unknown_length else self._num_bytes
        self._patches = {position - start: content for position, content in (patches or {}).items()}
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._told_bytes}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def read(self, num_bytes: int = -1) -> bytes:
        position = self._position
        left = max(self._num_bytes - position, 0)
        wanted = left if num_bytes < 0 else min(num_bytes, left)
        content = read_at(self._file, self._start + position, wanted)
        content += bytes(min(wanted - len(content), MAX_MISSING_TAIL_BYTES))
        if self._told_bytes > self._num_bytes and position >= self._told_bytes - TAG_BYTES:
            content = bytes(min(num_bytes, self._told_bytes - position))
        for place, patch in self._patches.items():
            first, last = max(place, position), min(place + len(patch), position + len(content))
            if first < last:
                content = b"".join(
                    (content[: first - position], patch[first - place : last - place], content[last - position :])
                )
        self._position += len(content)
        return content

    def readinto(self, buffer: memoryview) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class Blocks:
    """Short pieces of a file at rising positions, read a large block at a time."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.file, self.end = file, end
        self._start, self._block = 0, b""

    def at(self, position: int, num_bytes: int) -> bytes:
        offset = position - self._start
        if offset < 0 or offset + num_bytes > len(self._block):
            self._start, offset = position, 0
            self._block = read_at(self.file, position, max(min(BLOCK_BYTES, self.end - position), 0))
        return self._block[offset : offset + num_bytes]
