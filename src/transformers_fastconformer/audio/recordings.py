"""Recordings with what is known of them: of a manifest, or of a folder with its metadata or texts."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..validation import reading
from .folders import find_audio, kind_of_path
from .manifests import MANIFEST_SUFFIXES, ManifestLine, read_manifest, read_manifest_line

TABLE_SUFFIX = ".csv"
# Files that tell what is said in a folder's recordings, as `datasets` and NeMo have them.
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "manifest.jsonl", "manifest.json")
# LibriSpeech's form: in each folder a file with the name of a recording and its text on each line.
TRANSCRIPTS_SUFFIX = ".trans.txt"
TEXT_SUFFIX = ".txt"


def names_recordings(name: str) -> bool:
    """Tell whether a name is that of a folder or, by its ending, of a manifest or a table."""
    return os.path.isdir(name) or name.lower().endswith((*MANIFEST_SUFFIXES, TABLE_SUFFIX))


def read_recordings(name: str, text_column: str = "text") -> Iterator[ManifestLine]:
    """
    Read the lines of a manifest, a table, or a folder; one that is not accepted has its error and costs no other.

    Args:
        name: A manifest (`.jsonl`, `.json`); a table (`.csv`) with a line of names, of which one is `file_name` or
            `audio_filepath`; or a folder: with one of `METADATA_FILES`, else with a `.txt` of the same name next to
            each recording, or LibriSpeech's `*.trans.txt`.
        text_column: Name under which the texts of a folder are in the lines.

    Raises:
        ValueError: for a file that does not exist or is neither, and for a folder that cannot be read.
    """
    if os.path.isdir(name):
        found = next((path for file in METADATA_FILES if os.path.isfile(path := os.path.join(name, file))), None)
        if found is None:
            return _read_folder(name, text_column)
        name = found
    return _read_table(name) if name.lower().endswith(TABLE_SUFFIX) else read_manifest(name)


def _read_table(path: str) -> Iterator[ManifestLine]:
    expected = "expected a table with a line of names, of which one is 'file_name' or 'audio_filepath'"
    if not os.path.isfile(path):
        raise ValueError(f"{path!r} does not exist; {expected}.")
    with reading(path, "a table in UTF-8"), open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file_name", "audio_filepath"}.intersection(rows[0]):
        raise ValueError(f"{path!r} is not a table of recordings; {expected}.")
    for number, row in enumerate(rows, start=1):
        entry = {name: _value_of(name, value) for name, value in row.items() if name is not None}
        yield read_manifest_line(str(entry), entry, path, number)


def _value_of(name: str, value: Any) -> Any:
    """A value of a table as a manifest has it: times are numbers, and nothing is None."""
    if name not in ("offset", "duration"):
        return value
    try:
        return float(value) if value else None
    except ValueError:
        return value  # refused with its line


def _read_folder(folder: str, text_column: str) -> Iterator[ManifestLine]:
    listed: dict[str, dict[str, str]] = {}
    for row, path in enumerate(find_audio(folder)):
        parent, stem = os.path.split(os.path.splitext(path)[0])
        entry: dict[str, Any] = {"audio_filepath": os.path.relpath(path, folder)}
        try:
            if parent not in listed:
                listed[parent] = _read_transcripts(parent)
            if (kind := kind_of_path(path)) is not None:
                raise ValueError(f"{path!r} is {kind}; expected an audio file.")
            text = listed[parent].get(stem)
            if text is None:
                text = _read_text(os.path.join(parent, stem + TEXT_SUFFIX))
            if text is None:
                raise ValueError(
                    f"{path!r} has neither a {stem + TEXT_SUFFIX!r} next to it nor a line in a "
                    f"*{TRANSCRIPTS_SUFFIX}; expected the text that is said."
                )
        except ValueError as error:
            yield ManifestLine(repr(path), row, entry=entry, error=error)
            continue
        yield ManifestLine(repr(path), row, path, entry={**entry, text_column: text})


def _read_transcripts(folder: str) -> dict[str, str]:
    """Texts by the names of recordings, from LibriSpeech's files of a folder."""
    texts = {}
    for path in sorted(Path(folder).glob(f"*{TRANSCRIPTS_SUFFIX}")):
        for line in (_read_text(str(path)) or "").splitlines():
            name, _, text = line.partition(" ")
            texts[name] = text.strip()
    return texts


def _read_text(path: str) -> str | None:
    try:
        with reading(path, "text in UTF-8"):
            return Path(path).read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        return None
