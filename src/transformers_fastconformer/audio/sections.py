"""The sections of an audio file: streams that stand one after another, each with what is known of its length."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple, Protocol

from .windows import BLOCK_BYTES, find_bytes, read_at

# What writers put into a header when they do not know the length: 0, or the greatest numbers there are.
MIN_UNKNOWN_BYTES = 0x7FFF0000
# Headers that are wrong by so little lose no sound: some writers count the header itself.
MAX_MISSING_BYTES = 64
# Bytes after the sound that may be something of which nothing is known; more than that may be sound.
MAX_TRAILING_BYTES = 4096
ID3_OF_OLD_BYTES = 128
APE_FOOTER_BYTES = 32


class Section(NamedTuple):
    """
    One stream of a file that may hold several.

    Args:
        container: Name of its container; empty: not one that is known here.
        start: Position of its first byte.
        stop: Position after its last.
        is_announced: It holds the number of its samples, so that libsndfile does not guess one.
        patches: Bytes to put in place of size fields that were never brought up to date, by their position.
        min_samples: Samples that the data must give at least; 0: not known.
        num_samples: Samples that the data gives, if that is known without decoding; None: not known.
        sampling_rate: Rate of these, in Hz.
        sound_bytes: Bytes of samples that its header announces; 0: not known.
        is_open: Its end is not announced: what follows and is no file of its own is left to the decoder.
    """

    container: str
    start: int
    stop: int
    is_announced: bool = True
    patches: Mapping[int, bytes] = {}
    min_samples: int = 0
    num_samples: int | None = None
    sampling_rate: int = 0
    sound_bytes: int = 0
    is_open: bool = False


class Reader(Protocol):
    """A function that finds the section of one kind of container."""

    def __call__(self, name: str, file: BinaryIO, start: int, end: int, /) -> Section | None:
        """
        Find the section that begins at a position.

        Args:
            name: What to call the file in messages.
            file: The file.
            start: Where the section begins.
            end: Where the file ends.

        Returns:
            The section; None where something else begins.

        Raises:
            ValueError: for a file that is cut off or is damaged.
        """


class CutOffError(ValueError):
    """A file that ends before the end that it announces."""


def cut_off(name: str, announced: str, found: str) -> CutOffError:
    """The error for a file that ends too early."""
    return CutOffError(f"{name} is cut off: its header announces {announced}, {found} are there.")


def length_of(file: BinaryIO) -> int:
    """Number of bytes of a file that can be wound back."""
    return file.seek(0, os.SEEK_END)


def skip_id3(file: BinaryIO, position: int) -> int:
    """Position after the ID3v2 tags that stand at a position."""
    while len(header := read_at(file, position, 10)) == 10 and header[:3] == b"ID3":
        if any(byte >= 128 for byte in header[6:]):
            break
        num_bytes = header[6] << 21 | header[7] << 14 | header[8] << 7 | header[9]
        position += 10 + num_bytes + (10 if header[5] & 0x10 else 0)
    return position


def skip_tags(file: BinaryIO, position: int, end: int) -> int:
    """Position after the tags of all kinds that stand at a position, or after zeros up to the end."""
    while position < end:
        before = position
        position = skip_id3(file, position)
        head = read_at(file, position, 32)
        if head[:3] == b"TAG":
            position += 128
        elif head[:8] == b"APETAGEX":
            is_header = int.from_bytes(head[20:24], "little") >> 29 & 1
            position += 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
        elif head[:11] == b"LYRICSBEGIN":
            found = find_bytes(file, b"LYRICS", position + 11, end)
            position = found + 9 if found >= 0 else position
        if position == before:
            return end if head[:1] == b"\0" and is_zero(file, position, end) else position
    return min(position, end)


def is_zero(file: BinaryIO, position: int, end: int) -> bool:
    """True where nothing but zeros stands from a position to the end, of which some disks and players write many."""
    return skip_zeros(file, position, end) == end


def skip_zeros(file: BinaryIO, position: int, end: int) -> int:
    """Position of the first byte that is not 0."""
    while position < end and (block := read_at(file, position, min(BLOCK_BYTES, end - position))):
        rest = block.lstrip(b"\0")
        position += len(block) - len(rest)
        if rest:
            break
    return position


def strip_tags(file: BinaryIO, start: int, end: int) -> int:
    """Position where the tags begin that stand at the end and are found from there: ID3v1, and APE by its footer."""
    while True:
        before = end
        if end - start >= ID3_OF_OLD_BYTES and read_at(file, end - ID3_OF_OLD_BYTES, 3) == b"TAG":
            end -= ID3_OF_OLD_BYTES
        footer = read_at(file, end - APE_FOOTER_BYTES, APE_FOOTER_BYTES) if end - start >= APE_FOOTER_BYTES else b""
        if footer[:8] == b"APETAGEX":
            flags = int.from_bytes(footer[20:24], "little")
            num_bytes = int.from_bytes(footer[12:16], "little") + (APE_FOOTER_BYTES if flags >> 31 else 0)
            if not flags >> 29 & 1 and APE_FOOTER_BYTES <= num_bytes <= end - start:
                end -= num_bytes
        if end == before:
            return end


def check_trailing(name: str, section: Section, num_bytes: int) -> None:
    """
    Raise where much follows a section, and may be sound too.

    Args:
        name: What to call the file in messages.
        section: The last section of the file.
        num_bytes: Bytes after it that are neither tags nor zeros.

    Raises:
        ValueError: for more than a few bytes.
    """
    if num_bytes <= MAX_TRAILING_BYTES:
        return
    found = (
        f"{section.sound_bytes} bytes of samples"
        if section.sound_bytes
        else f"{section.stop - section.start} bytes of {section.container}"
    )
    raise ValueError(
        f"{name} holds more than its header announces: {found}, and {num_bytes} bytes after them that are nothing "
        "known; expected a file whose header is brought up to date, such as 'ffmpeg -i it new.wav' makes."
    )
