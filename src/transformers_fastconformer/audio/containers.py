"""Containers of audio files, told by what stands in them and not by their names."""

from __future__ import annotations

from typing import BinaryIO

from ..validation import reading
from . import announced, chunked, framed, media, mpeg
from .sections import (
    Reader,
    Section,
    check_trailing,
    length_of,
    skip_id3,
    skip_tags,
    skip_zeros,
    strip_tags,
)

# By marks first; those that are only told by many frames come last.
READERS: tuple[Reader, ...] = (
    *chunked.READERS,
    *announced.READERS,
    *media.READERS,
    *framed.READERS,
    *mpeg.READERS,
)
# A file of more pieces is not a recording that was joined.
MAX_SECTIONS = 100_000
# Zeros with which a file may begin: those of a size.
MAX_LEADING_ZEROS = 3


def find_sections(name: str, file: BinaryIO, start: int = 0) -> list[Section]:
    """
    All sections of a file, in order, each compared with what its header announces; nothing is decoded.

    Args:
        name: What to call the file in messages.
        file: An open binary file that can be wound back.
        start: Where its first byte stands.

    Returns:
        One section for a container that is not known here.

    Raises:
        ValueError: for a file that is cut off, is damaged between its frames, or holds far more than it announces.
    """
    with reading(name, "an audio file"):
        return _find_sections(name, file, start, length_of(file))


def _find_sections(name: str, file: BinaryIO, start: int, end: int) -> list[Section]:
    section = _read_section(name, file, start, end)
    if section is None:
        return [Section("", start, end)]
    sections = [section]
    while section.stop < end:
        following, num_unknown_bytes = _find_following(name, file, section, end)
        if following is None:
            if section.is_open:
                sections[-1] = section._replace(stop=end)
            else:
                check_trailing(name, section, num_unknown_bytes)
            break
        section = following
        sections.append(section)
        if len(sections) > MAX_SECTIONS:
            raise ValueError(f"{name} is made of more than {MAX_SECTIONS} files; expected a recording.")
    return sections


def _read_section(name: str, file: BinaryIO, position: int, end: int) -> Section | None:
    """The section that begins at a position, or after ID3 tags that stand there."""
    after = skip_id3(file, position)
    for read in READERS:
        section = read(name, file, position, end)
        if section is None and after > position:
            section = read(name, file, after, end)
        if section is not None:
            return section
    return None


def _find_following(name: str, file: BinaryIO, section: Section, end: int) -> tuple[Section | None, int]:
    """The section after another, tags and zeros; None, and the number of bytes there that are nothing known."""
    position = section.stop
    following = _read_following(name, file, section, position, end)
    known_end = strip_tags(file, position, end)
    while following is None and position < end:
        after = skip_tags(file, position, end)
        if after > position:
            position, num_zeros = after, 0
        else:
            position = skip_zeros(file, position, end)
            num_zeros = min(position - after, MAX_LEADING_ZEROS)
            if not num_zeros:
                break
        for place in range(position, position - num_zeros - 1, -1):
            following = following or _read_following(name, file, section, place, end)
    return following, max(known_end - position, 0)


def _read_following(name: str, file: BinaryIO, section: Section, position: int, end: int) -> Section | None:
    """The section at a position after another; MPEG frames after something else begin there and not soon after."""
    following = _read_section(name, file, position, end)
    is_late = following is not None and following.start > skip_tags(file, position, end)
    return None if is_late and section.container != "MP3" else following
