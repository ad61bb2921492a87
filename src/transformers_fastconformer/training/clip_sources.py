"""Training data by name: a manifest, a folder with its metadata, or a data set of the Hub."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..validation import reading
from .packages import require_package
from .training_clips import MANIFEST_AUDIO, RowForm

MANIFEST_SUFFIXES = (".jsonl", ".json")
# Files that tell what is said in a folder's recordings, as `datasets` has them.
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "manifest.jsonl", "manifest.json")
FILE_COLUMNS = ("file_name", MANIFEST_AUDIO)
DEFAULT_SPLIT = "train"


def open_clips(name: str | Path, form: RowForm, split: str | None = None) -> Sequence[Mapping[str, Any]]:
    """
    Open training data; nothing is decoded.

    Args:
        name: A manifest (`.jsonl` or `.json`: a JSON object a line with `audio_filepath`, the text, and `offset` and
            `duration` of a part); a folder with one, or with `metadata.jsonl` or `metadata.csv` (`file_name` and the
            text); or a data set of the Hub, with the name of a configuration after a colon
            (`"mozilla-foundation/common_voice_17_0:cy"`).
        form: Names of the columns.
        split: Part of a data set of the Hub, `"train"` if it is None.

    Returns:
        A row for each clip.

    Raises:
        ValueError: for a file that is no manifest, a folder without one, and a data set without the columns; the
            message names the line.
        FileNotFoundError: there is no such file.
        ImportError: `datasets` is needed and not installed; the message holds the command.
    """
    path = Path(name)
    if path.is_dir():
        found = next((path / file for file in METADATA_FILES if (path / file).is_file()), None)
        if found is None:
            raise ValueError(f"{str(path)!r} has none of {', '.join(METADATA_FILES)}; expected one of them.")
        path = found
    is_file = path.is_file()
    if is_file or path.suffix in (*MANIFEST_SUFFIXES, ".csv"):
        if split is not None:
            raise ValueError(f"split={split!r} is not supported for {str(path)!r}; expected None for a manifest.")
        if not is_file:
            raise FileNotFoundError(f"{str(path)!r} does not exist; expected a manifest.")
        if path.suffix not in (*MANIFEST_SUFFIXES, ".csv"):
            raise ValueError(f"{str(path)!r} is no manifest; expected a name that ends in .jsonl, .json or .csv.")
        return _read_table(path) if path.suffix == ".csv" else _read_manifest(path)
    return _open_data_set(str(name), form, split or DEFAULT_SPLIT)


def _read_manifest(path: Path) -> list[dict[str, Any]]:
    rows = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{str(path)!r}, line {number}"
            with reading(where, f"a JSON object with {' or '.join(map(repr, FILE_COLUMNS))}"):
                row = json.loads(line)
            rows.append(_with_full_path(row, path.parent, where))
    if not rows:
        raise ValueError(f"{str(path)!r} is empty; expected a JSON object a line.")
    return rows


def _read_table(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [
            _with_full_path({name: _number_or_text(name, value) for name, value in row.items()}, path.parent, where)
            for number, row in enumerate(csv.DictReader(file), start=2)
            if (where := f"{str(path)!r}, line {number}")
        ]
    if not rows:
        raise ValueError(f"{str(path)!r} is empty; expected a line of names and a line for each clip.")
    return rows


def _number_or_text(name: str, value: str) -> Any:
    if name not in ("offset", "duration"):
        return value
    return float(value) if value else None


def _with_full_path(row: Any, folder: Path, where: str) -> dict[str, Any]:
    """A row whose file is found from anywhere: as it is written if it exists so, else below the manifest's folder."""
    column = next((name for name in FILE_COLUMNS if isinstance(row, dict) and isinstance(row.get(name), str)), None)
    if column is None:
        raise ValueError(
            f"{where}: found {str(row)[:80]!r}; expected a JSON object with {' or '.join(map(repr, FILE_COLUMNS))}."
        )
    audio = row.pop(column)
    is_found = os.path.isabs(audio) or (column == MANIFEST_AUDIO and os.path.isfile(audio))
    return {**row, MANIFEST_AUDIO: audio if is_found else str(folder / audio)}


def _open_data_set(name: str, form: RowForm, split: str) -> Sequence[Mapping[str, Any]]:
    require_package("datasets")
    import datasets

    repository, _, configuration = name.partition(":")
    loaded: Any = datasets.load_dataset(repository, configuration or None, split=split)
    return undecoded(loaded, form)


def undecoded(rows: Any, form: RowForm) -> Any:
    """
    A `datasets.Dataset` whose audio is read by this package, from the bytes of its files.

    Args:
        rows: The data set, or rows of another kind, which are returned as they are.
        form: Names of the columns.

    Raises:
        ValueError: for a data set without these columns.
    """
    features = getattr(rows, "features", None)
    if features is None:
        return rows
    import datasets

    for column in (form.audio_column, form.text_column):
        if column not in features:
            raise ValueError(f"The data set has no column {column!r}; expected one of {', '.join(features)}.")
    if isinstance(features[form.audio_column], datasets.Audio):
        rows = rows.cast_column(form.audio_column, datasets.Audio(decode=False))
    return rows.select_columns([form.audio_column, form.text_column])
