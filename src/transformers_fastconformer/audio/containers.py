"""Containers of audio files, told by what stands in them and not by their names."""

from __future__ import annotations

from typing import BinaryIO

from . import chunked, framed, media
from .sections import Section, length_of

# By marks first; those that are only told by many frames come last.
READERS = (*chunked.READERS, *media.READERS, *framed.READERS)
# A file of more pieces is not a recording that was joined.
MAX_SECTIONS = 100_000


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
    end = length_of(file)
    for read in READERS:
        section = read(name, file, start, end)
        if section is not None:
            break
    else:
        return [Section("", start, end)]
    sections = [section]
    while section.stop < end:
        following = read(name, file, section.stop, end)
        if following is None:
            break
        section = following
        sections.append(section)
        if len(sections) > MAX_SECTIONS:
            raise ValueError(f"{name} is made of more than {MAX_SECTIONS} files; expected a recording.")
    return sections
