"""Folders of audio: which files are taken, and what a path may be that is not a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NoReturn

# Files that are taken from folders: audio, and videos, whose sound is transcribed.
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd"),
    *(".caf", ".w64", ".rf64", ".sph", ".voc"),
    *(".m4a", ".m4b", ".aac", ".wma", ".amr", ".webm", ".mka"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".avi", ".3gp", ".3g2", ".wmv", ".flv", ".ts", ".mpg", ".mpeg", ".ogv"),
)
# What a path may be that is not a file, in words.
KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of_path(path: str) -> str | None:
    """The kind of a path that is neither a file nor a folder, in words; None for these, and where nothing is."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return next((kind for is_kind, kind in KINDS if is_kind(mode)), None)


def find_audio(folder: str) -> Iterator[str]:
    """
    Paths of the audio in a folder and the folders in it, except hidden ones; links to folders are followed, each once.

    Pipes, sockets and devices are among them where they have the name of audio.

    Raises:
        ValueError: for a folder that cannot be read.
    """
    for parent, names in _walk(folder):
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
                yield os.path.join(parent, name)


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names of its files, those that links lead to after the others."""
    visited: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        for parent, folders, files in os.walk(waiting.pop(0), onerror=_raise):
            found = os.stat(parent)
            if (found.st_dev, found.st_ino) in visited:
                folders.clear()
                continue
            visited.add((found.st_dev, found.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
            yield parent, sorted(files)


def _raise(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename!r} cannot be read: {error.strerror}; expected a folder.") from error
